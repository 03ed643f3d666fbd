#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "devices/holder.h"
#include "devices/net/tap_internal.h"
#include "devices/net/tap_link.h"

_Static_assert(TAP_NAME_MAX == IFNAMSIZ - 1, "the kernel's limit");

/* Since Linux 6.2, and newer than the headers that godwit is built with. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

void tap_detach(struct tap *tap)
{
    while (tap->opened > 0)
        close(tap->queues[--tap->opened].fd);
}

/* The kernel refuses any offload without that of checksums, ECN without TSO, and one kind of USO without the
 * other. */
static unsigned tun_offloads(unsigned offloads)
{
    static const struct {
        unsigned ours, tun;
    } bits[] = {
        {NET_OFFLOAD_CHECKSUM, TUN_F_CSUM},
        {NET_OFFLOAD_TSO4, TUN_F_TSO4},
        {NET_OFFLOAD_TSO6, TUN_F_TSO6},
        {NET_OFFLOAD_ECN, TUN_F_TSO_ECN},
        {NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6, TUN_F_USO4 | TUN_F_USO6},
    };
    unsigned tun = 0;
    if (!(offloads & NET_OFFLOAD_CHECKSUM))
        return 0;
    if (!(offloads & (NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6)))
        offloads &= ~(unsigned)NET_OFFLOAD_ECN;
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
        if ((offloads & bits[i].ours) == bits[i].ours)
            tun |= bits[i].tun;
    }
    return tun;
}

int tap_set_offloads(const struct tap *tap, unsigned offloads)
{
    if (tap->bare)
        return 0;
    return ioctl(tap->queues[0].fd, TUNSETOFFLOAD, tun_offloads(offloads)) < 0 ? -errno : 0;
}

/* Finds out what this kernel can do by trying. */
static unsigned available_offloads(const struct tap *tap)
{
    static const unsigned sets[] = {
        NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN | NET_OFFLOAD_USO4 |
            NET_OFFLOAD_USO6,
        NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN,
        NET_OFFLOAD_CHECKSUM,
    };
    for (size_t i = 0; !tap->bare && i < ARRAY_SIZE(sets); i++) {
        if (tap_set_offloads(tap, sets[i]) == 0)
            return sets[i];
    }
    return 0;
}

static int set_header(const struct tap *tap, int fd, struct error *err)
{
    int size = NET_HEADER_SIZE, little_endian = 1;
    if (!tap->bare && (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 || ioctl(fd, TUNSETVNETLE, &little_endian) < 0))
        return error_set_errno(err, errno, "tap %s: cannot choose the header of frames", tap->name);
    return 0;
}

/* Derived from the interface's own, which nobody else on its network has: it lasts as long as the interface.
 */
static int suggest_mac(struct tap *tap, struct error *err)
{
    struct ifreq request = {0};
    if (ioctl(tap->queues[0].fd, SIOCGIFHWADDR, &request) < 0)
        return error_set_errno(err, errno, "cannot read the address of tap %s", tap->name);
    memcpy(tap->backend.mac, request.ifr_hwaddr.sa_data, sizeof(tap->backend.mac));
    tap->backend.mac[0] = (uint8_t)(((tap->backend.mac[0] ^ 0x40) | 0x02) & ~0x01);
    return 0;
}

static int set_interface(const char *name, unsigned long what, struct ifreq *request)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    strncpy(request->ifr_name, name, IFNAMSIZ - 1);
    int result = ioctl(fd, what, request) < 0 ? -errno : 0;
    close(fd);
    return result;
}

/* What somebody else would have done for an interface that lasts. */
static int set_up(const struct tap *tap, uint16_t mtu, struct error *err)
{
    struct ifreq size = {.ifr_mtu = mtu}, flags = {.ifr_flags = IFF_UP};
    int result = mtu ? set_interface(tap->name, SIOCSIFMTU, &size) : 0;
    if (result < 0)
        return error_set_errno(err, -result, "cannot set the MTU of tap %s to %u", tap->name, mtu);
    result = set_interface(tap->name, SIOCSIFFLAGS, &flags);
    return result < 0 ? error_set_errno(err, -result, "cannot set tap %s up", tap->name) : 0;
}

/* ---- By name ------------------------------------------------------------------------------------------- */

static int check_name(const char *name, struct error *err)
{
    bool good = *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    for (const char *c = name; *c && good; c++)
        good = *c != '/' && *c != ':' && *c != '%' && isgraph((unsigned char)*c);
    if (!good)
        return error_set(err, EINVAL, "'%.80s' cannot be the name of a network interface; choose another",
                         name);
    if (strlen(name) > TAP_NAME_MAX)
        return error_set(err, EINVAL,
                         "'%.80s' is too long: names of network interfaces have at most %u characters", name,
                         TAP_NAME_MAX);
    return 0;
}

static int refuse_busy(const char *name, const struct holder *holder, struct error *err)
{
    if (!holder)
        return error_set(err, EBUSY, "tap %s is in use by another process: stop it, or use another interface",
                         name);
    return error_set(err, EBUSY, "tap %s is in use by process %ld (%s): stop it, or use another interface",
                     name, holder->pid, holder->name);
}

/* Why an interface that is there cannot be attached to, as far as the kernel would not say it. */
static int check_link(const char *name, const struct tap_link *link, unsigned queues, struct error *err)
{
    if (!link->tap)
        return error_set(err, EINVAL,
                         "interface %s is not a tap; make one: ip tuntap add dev NAME mode tap user $USER",
                         name);
    if (link->in_use)
        return refuse_busy(name, NULL, err);
    if (queues > 1 && !link->multi_queue)
        return error_set(err, EINVAL,
                         "tap %s was made for one queue: use queues=1, or make it anew: ip tuntap add dev %s "
                         "mode tap multi_queue user $USER",
                         name, name);
    return 0;
}

static int refuse_attaching(const char *name, bool found, int code, struct error *err)
{
    if (code == EBUSY)
        return refuse_busy(name, NULL, err);
    if (code == EPERM && found)
        return error_set(
            err, EPERM,
            "tap %s belongs to another user: make it yours, as root: ip tuntap add dev %s mode tap "
            "user $USER",
            name, name);
    if (code == EPERM)
        return error_set(
            err, EPERM,
            "there is no tap %s, and no permission to make it: as root, ip tuntap add dev %s mode tap "
            "user $USER; passt=PATH needs no permission",
            name, name);
    return error_set_errno(err, code, "cannot attach to tap %s", name);
}

static int open_device(struct error *err)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    if (errno == EACCES || errno == EPERM)
        return error_set_errno(err, errno,
                               "cannot open /dev/net/tun, which taps need: as root, chmod 666 /dev/net/tun; "
                               "passt=PATH does without");
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return error_set_errno(
            err, errno,
            "cannot open /dev/net/tun, which taps need: as root, modprobe tun; passt=PATH does "
            "without");
    return error_set_errno(err, errno, "cannot open /dev/net/tun, which taps need");
}

static int attach_queue(struct tap *tap, bool found, bool multi_queue, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open_device(err);
    if (fd < 0)
        return fd;
    tap->queues[tap->opened++].fd = fd;
    if (multi_queue)
        request.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(request.ifr_name, tap->name, IFNAMSIZ);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        return refuse_attaching(tap->name, found, errno, err);
    return set_header(tap, fd, err);
}

static int try_name(struct tap *tap, const struct tap_config *config, struct error *err)
{
    struct tap_link link = {0};
    int result = tap_link_find(tap->name, &link);
    bool found = result == 0;
    if (result < 0 && result != -ENODEV)
        return error_set_errno(err, -result, "cannot look for interface %s", tap->name);
    result = found ? check_link(tap->name, &link, config->queues, err) : 0;
    while (result == 0 && tap->opened < config->queues)
        result = attach_queue(tap, found, found ? link.multi_queue : config->queues > 1, err);
    return result == 0 && !found ? set_up(tap, config->mtu, err) : result;
}

static int attach_by_name(struct tap *tap, const struct tap_config *config, struct error *err)
{
    struct holder holder;
    char line[IFNAMSIZ + 2];
    int result = check_name(config->name, err);
    if (result < 0)
        return result;
    strncpy(tap->name, config->name, TAP_NAME_MAX);
    snprintf(line, sizeof(line), "\t%s\n", tap->name);
    for (unsigned attempt = 0; (result = try_name(tap, config, err)) == -EBUSY; attempt++) {
        tap_detach(tap);
        if (holder_find("iff:", line, &holder))
            return refuse_busy(tap->name, &holder, err);
        if (!holder_wait(attempt))
            return result;
    }
    return result;
}

/* ---- By descriptors ------------------------------------------------------------------------------------ */

static int check_descriptor(const struct tap *tap, int number, const struct ifreq *interface, bool several,
                            struct error *err)
{
    const char *name = interface->ifr_name;
    if (!(interface->ifr_flags & IFF_TAP))
        return error_set(err, EINVAL,
                         "descriptor %d is a tun interface (%s), without Ethernet: open it with IFF_TAP",
                         number, name);
    if (several && !(interface->ifr_flags & IFF_MULTI_QUEUE))
        return error_set(err, EINVAL,
                         "descriptor %d (tap %s) is not one of several queues: open it with IFF_MULTI_QUEUE",
                         number, name);
    if (tap->opened > 1 && strcmp(name, tap->name) != 0)
        return error_set(err, EINVAL, "descriptors of one card are of different interfaces, %s and %s",
                         tap->name, name);
    if (tap->opened > 1 && tap->bare == !!(interface->ifr_flags & IFF_VNET_HDR))
        return error_set(err, EINVAL, "of the descriptors of tap %s some have IFF_VNET_HDR and some do not",
                         tap->name);
    return 0;
}

static int take_descriptor(struct tap *tap, int number, bool several, struct error *err)
{
    struct ifreq interface = {0}, attach = {.ifr_flags = IFF_ATTACH_QUEUE};
    int fd = fcntl(number, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "descriptor %d: whoever starts godwit must pass on that of a tap",
                               number);
    tap->queues[tap->opened++].fd = fd;
    if (ioctl(fd, TUNGETIFF, &interface) < 0)
        return error_set_errno(err, errno, "descriptor %d is not that of a tap with its interface", number);
    int result = check_descriptor(tap, number, &interface, several, err);
    if (result < 0)
        return result;
    memcpy(tap->name, interface.ifr_name, IFNAMSIZ);
    tap->bare = !(interface.ifr_flags & IFF_VNET_HDR);
    if (interface.ifr_flags & IFF_DETACH_QUEUE && ioctl(fd, TUNSETQUEUE, &attach) < 0)
        return error_set_errno(err, errno, "descriptor %d: cannot attach it to tap %s again", number,
                               tap->name);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 || fcntl(number, F_SETFD, FD_CLOEXEC) < 0)
        return error_set_errno(err, errno, "descriptor %d cannot be used", number);
    return set_header(tap, fd, err);
}

static int take_descriptors(struct tap *tap, const struct tap_config *config, struct error *err)
{
    int result = 0;
    while (result == 0 && tap->opened < config->queues)
        result = take_descriptor(tap, config->fds[tap->opened], config->queues > 1, err);
    return result;
}

/* ------------------------------------------------------------------------------------------------------- */

/*
 * The interface of a descriptor may be in another network namespace, where nothing can be asked. That it has
 * packet information the descriptor itself cannot tell: IFF_NO_PI and IFF_NOFILTER are the same bit.
 */
static int look_at_interface(struct tap *tap, struct error *err)
{
    struct tap_link link;
    struct ifreq address = {0};
    if (tap_link_find(tap->name, &link) < 0 || ioctl(tap->queues[0].fd, SIOCGIFHWADDR, &address) < 0 ||
        memcmp(link.mac, address.ifr_hwaddr.sa_data, sizeof(link.mac)) != 0)
        return 0;
    if (link.packet_info)
        return error_set(err, EINVAL,
                         "tap %s has packet information before its frames: open it with IFF_NO_PI",
                         tap->name);
    tap->backend.mtu = (uint16_t)smaller(link.mtu, UINT16_MAX);
    if (!link.up)
        log_write(tap->log, LOG_WARN,
                  "tap %s is down, and carries nothing until somebody says: ip link set %s up", tap->name,
                  tap->name);
    return 0;
}

int tap_attach(struct tap *tap, const struct tap_config *config, struct error *err)
{
    int result = config->name ? attach_by_name(tap, config, err) : take_descriptors(tap, config, err);
    if (result == 0)
        result = suggest_mac(tap, err);
    if (result == 0)
        result = look_at_interface(tap, err);
    if (result < 0)
        return result;
    tap->used = tap->opened;
    tap->backend.queue_count = tap->opened;
    tap->backend.offloads = available_offloads(tap);
    result = tap_set_offloads(tap, 0);
    return result < 0 ? error_set_errno(err, -result, "cannot set the offloads of tap %s", tap->name) : 0;
}
