#include "devices/net/tap_link.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_SIZE 16384 /* one interface, with its statistics */

struct query {
    struct nlmsghdr header;
    struct ifinfomsg info;
    struct rtattr name_header;
    char name[IFNAMSIZ];
};

union answer {
    struct nlmsghdr header;
    char bytes[ANSWER_SIZE];
};

/* The attribute of this type, with at least `size` bytes, among those at `first`; NULL: there is none. */
static const struct rtattr *find(const struct rtattr *first, int length, unsigned type, size_t size)
{
    for (const struct rtattr *attribute = first; RTA_OK(attribute, length);
         attribute = RTA_NEXT(attribute, length)) {
        if ((attribute->rta_type & NLA_TYPE_MASK) == type && RTA_PAYLOAD(attribute) >= size)
            return attribute;
    }
    return NULL;
}

static const struct rtattr *find_inside(const struct rtattr *outer, unsigned type, size_t size)
{
    return outer ? find(RTA_DATA(outer), (int)RTA_PAYLOAD(outer), type, size) : NULL;
}

static uint32_t number(const struct rtattr *attribute)
{
    uint32_t value = 0;
    if (attribute)
        memcpy(&value, RTA_DATA(attribute), sizeof(value));
    return value;
}

static bool flag(const struct rtattr *attribute)
{
    return attribute && *(const uint8_t *)RTA_DATA(attribute);
}

static void read_tun(const struct rtattr *info, struct tap_link *link)
{
    const struct rtattr *kind = find_inside(info, IFLA_INFO_KIND, sizeof("tun"));
    const struct rtattr *tun = find_inside(info, IFLA_INFO_DATA, 0);
    if (!kind || memcmp(RTA_DATA(kind), "tun", sizeof("tun")) != 0)
        return;
    const struct rtattr *type = find_inside(tun, IFLA_TUN_TYPE, 1);
    link->tap = type && *(const uint8_t *)RTA_DATA(type) == IFF_TAP;
    link->packet_info = flag(find_inside(tun, IFLA_TUN_PI, 1));
    link->multi_queue = flag(find_inside(tun, IFLA_TUN_MULTI_QUEUE, 1));
    /* One that does not last is there because of a descriptor. */
    link->in_use = !flag(find_inside(tun, IFLA_TUN_PERSIST, 1)) ||
                   number(find_inside(tun, IFLA_TUN_NUM_QUEUES, sizeof(uint32_t)));
}

static int read_answer(const struct nlmsghdr *header, ssize_t size, struct tap_link *link)
{
    if (!NLMSG_OK(header, size))
        return -EPROTO;
    if (header->nlmsg_type == NLMSG_ERROR)
        return ((const struct nlmsgerr *)NLMSG_DATA(header))->error;
    if (header->nlmsg_type != RTM_NEWLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return -EPROTO;
    const struct ifinfomsg *info = NLMSG_DATA(header);
    int length = (int)IFLA_PAYLOAD(header);
    const struct rtattr *mac = find(IFLA_RTA(info), length, IFLA_ADDRESS, sizeof(link->mac));
    *link = (struct tap_link){
        .up = info->ifi_flags & IFF_UP,
        .mtu = number(find(IFLA_RTA(info), length, IFLA_MTU, sizeof(uint32_t))),
    };
    if (mac)
        memcpy(link->mac, RTA_DATA(mac), sizeof(link->mac));
    read_tun(find(IFLA_RTA(info), length, IFLA_LINKINFO, 0), link);
    return 0;
}

static int ask(int fd, const char *name, struct tap_link *link)
{
    struct query query = {
        .header = {.nlmsg_len = sizeof(query), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
        .info = {.ifi_family = AF_UNSPEC},
        .name_header = {.rta_len = RTA_LENGTH(IFNAMSIZ), .rta_type = IFLA_IFNAME},
    };
    union answer answer;
    strncpy(query.name, name, IFNAMSIZ - 1);
    if (send(fd, &query, sizeof(query), 0) < 0)
        return -errno;
    ssize_t size = recv(fd, &answer, sizeof(answer), 0);
    return size < 0 ? -errno : read_answer(&answer.header, size, link);
}

int tap_link_find(const char *name, struct tap_link *link)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    int result = ask(fd, name, link);
    close(fd);
    return result;
}
