#include "vmm/config_net.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/config_words.h"

#define BACKENDS "tap=NAME, fd=N or passt=PATH"

/* Decimal digits; `*rest` is what follows. 0, or -EINVAL for what is not one of `low` to `high`. */
static int take_number(const char *text, unsigned long low, unsigned long high, unsigned long *number,
                       const char **rest)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    *number = strtoul(text, &end, 10);
    *rest = end;
    return *number < low || *number > high ? -EINVAL : 0;
}

static int set_tap(struct config_net *net, const char *value, const char *folder, struct error *err)
{
    net->kind = CONFIG_NET_TAP;
    net->queues = 1;
    if (!*value)
        return error_set(err, EINVAL, "tap: the name is empty; name a network interface");
    net->name = strdup(value);
    return net->name ? 0 : error_set(err, ENOMEM, "not enough memory");
}

static int set_passt(struct config_net *net, const char *value, const char *folder, struct error *err)
{
    net->kind = CONFIG_NET_PASST;
    net->queues = 1;
    if (!*value)
        return error_set(err, EINVAL, "passt: the path is empty; name passt's socket");
    if (!folder || *value == '/')
        net->name = strdup(value);
    else if (asprintf(&net->name, "%s/%s", folder, value) < 0)
        net->name = NULL;
    return net->name ? 0 : error_set(err, ENOMEM, "not enough memory");
}

static bool has_fd(const struct config_net *net, int fd)
{
    for (unsigned i = 0; net->kind == CONFIG_NET_FDS && i < net->queues; i++) {
        if (net->fds[i] == fd)
            return true;
    }
    return false;
}

static int set_fds(struct config_net *net, const char *value, const char *folder, struct error *err)
{
    net->kind = CONFIG_NET_FDS;
    for (const char *rest = value;; rest++) {
        unsigned long fd;
        if (take_number(rest, 0, INT32_MAX, &fd, &rest) < 0 || (*rest && *rest != ':'))
            return error_set(
                err, EINVAL,
                "fd: '%.80s' is no descriptor; write its number, or several with colons between, "
                "as in 3:4",
                value);
        if (net->queues == NET_QUEUES_MAX)
            return error_set(err, EINVAL, "fd: '%.80s' is more than the %u queues that a card can have",
                             value, NET_QUEUES_MAX);
        if (has_fd(net, (int)fd))
            return error_set(err, EINVAL, "fd: '%.80s' has %lu twice; each queue needs its own", value, fd);
        net->fds[net->queues++] = (int)fd;
        if (!*rest)
            return 0;
    }
}

static int set_mac(struct config_net *net, const char *value, struct error *err)
{
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    bool good = strlen(value) == 3 * sizeof(mac) - 1;
    for (size_t i = 0; i < sizeof(mac) && good; i++) {
        const char *byte = value + 3 * i;
        good = isxdigit((unsigned char)byte[0]) && isxdigit((unsigned char)byte[1]) &&
               (byte[2] == ':' || !byte[2]);
        mac[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    if (!good)
        return error_set(err, EINVAL, "mac: '%.80s' is no MAC address; write one like 52:54:00:12:34:56",
                         value);
    if (mac[0] & 1)
        return error_set(
            err, EINVAL,
            "mac: '%.80s' is the address of a group; that of one card has an even first byte, as in "
            "52:54:00:12:34:56",
            value);
    if (memcmp(mac, (uint8_t[VIRTIO_NET_MAC_SIZE]){0}, sizeof(mac)) == 0)
        return error_set(err, EINVAL,
                         "mac: all zeroes is nobody's address; write one like 52:54:00:12:34:56");
    net->has_mac = true;
    memcpy(net->mac, mac, sizeof(mac));
    return 0;
}

static int set_mtu(struct config_net *net, const char *value, struct error *err)
{
    unsigned long mtu;
    const char *rest;
    if (take_number(value, VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX, &mtu, &rest) < 0 || *rest)
        return error_set(err, EINVAL, "mtu: '%.80s' is no MTU; give %u to %u", value, VIRTIO_NET_MTU_MIN,
                         VIRTIO_NET_MTU_MAX);
    net->mtu = (uint16_t)mtu;
    return 0;
}

static int set_queues(struct config_net *net, const char *value, struct error *err)
{
    unsigned long queues;
    const char *rest;
    if (take_number(value, 1, NET_QUEUES_MAX, &queues, &rest) < 0 || *rest)
        return error_set(err, EINVAL, "queues: '%.80s' is not a number of queues; give 1 to %u", value,
                         NET_QUEUES_MAX);
    if (net->kind == CONFIG_NET_FDS && queues != net->queues)
        return error_set(err, EINVAL,
                         "queues: %lu queues do not go with %u descriptors; each has its own, as in fd=3:4",
                         queues, net->queues);
    if (net->kind == CONFIG_NET_PASST && queues > 1)
        return error_set(err, EINVAL, "queues: passt has only one; leave this out");
    net->queues = (unsigned)queues;
    return 0;
}

static int set_backend(struct config_net *net, const char *word, const char *folder, struct error *err)
{
    static const struct {
        const char *name;
        int (*set)(struct config_net *net, const char *value, const char *folder, struct error *err);
    } backends[] = {{"tap=", set_tap}, {"fd=", set_fds}, {"passt=", set_passt}};
    for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
        const char *value = config_value_of(word, backends[i].name);
        if (value)
            return backends[i].set(net, value, folder, err);
    }
    return error_set(err, EINVAL, "'%.80s' does not say what the card leads to; begin with " BACKENDS, word);
}

static int set_property(struct config_net *net, const char *word, struct error *err)
{
    static const struct {
        const char *name;
        int (*set)(struct config_net *net, const char *value, struct error *err);
    } properties[] = {{"mac=", set_mac}, {"mtu=", set_mtu}, {"queues=", set_queues}};
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
        const char *value = config_value_of(word, properties[i].name);
        if (value)
            return properties[i].set(net, value, err);
    }
    return error_set(
        err, EINVAL,
        "'%.80s' is no property of a network card; write mac=MAC, mtu=N or queues=N (a comma in the "
        "path is written twice)",
        word);
}

int config_net_parse(struct config_net *net, const char *text, const char *folder, struct error *err)
{
    *net = (struct config_net){0};
    char *word = calloc(1, strlen(text) + 1);
    if (!word)
        return error_set(err, ENOMEM, "not enough memory");
    const char *rest = config_take_word(text, word);
    int result = set_backend(net, word, folder, err);
    while (result == 0 && rest) {
        rest = config_take_word(rest, word);
        result = set_property(net, word, err);
    }
    free(word);
    if (result < 0)
        config_net_free(net);
    return result;
}

int config_net_compare(const struct config_net *net, const struct config_net *other, struct error *err)
{
    if (net->name && net->kind == other->kind && strcmp(net->name, other->name) == 0)
        return error_set(err, EINVAL, "'%.80s' is what another card leads to; each needs its own", net->name);
    for (unsigned i = 0; net->kind == CONFIG_NET_FDS && i < net->queues; i++) {
        if (has_fd(other, net->fds[i]))
            return error_set(err, EINVAL, "fd: %d is another card's; each needs its own", net->fds[i]);
    }
    if (net->has_mac && other->has_mac && memcmp(net->mac, other->mac, sizeof(net->mac)) == 0)
        return error_set(err, EINVAL, "mac: another card has the same address; each needs its own");
    return 0;
}

void config_net_free(struct config_net *net)
{
    free(net->name);
    net->name = NULL;
}
