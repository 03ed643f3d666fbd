/* The value of --net. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/config.h"
#include "vmm/config_net.h"

static struct config_net parse(const char *text)
{
    struct config_net net;
    struct error err = {0};
    cr_assert_eq(config_net_parse(&net, text, NULL, &err), 0, "%s: %s", text, err.message);
    return net;
}

static void refuses(const char *text, const char *says)
{
    struct config_net net;
    struct error err = {0};
    cr_expect_eq(config_net_parse(&net, text, "folder", &err), -EINVAL, "%s", text);
    cr_expect(strstr(err.message, says), "'%s' is not in: %s", says, err.message);
    cr_expect_null(net.name, "%s", text);
}

Test(config_net, backends_alone)
{
    struct config_net net = parse("tap=tap0");
    cr_expect(net.kind == CONFIG_NET_TAP && net.queues == 1 && !net.has_mac && net.mtu == 0);
    cr_expect_str_eq(net.name, "tap0");
    config_net_free(&net);
    net = parse("passt=/run/passt,,1");
    cr_expect(net.kind == CONFIG_NET_PASST && net.queues == 1 && !net.has_mac && net.mtu == 0);
    cr_expect_str_eq(net.name, "/run/passt,1");
    config_net_free(&net);
    net = parse("fd=0");
    cr_expect(net.kind == CONFIG_NET_FDS && net.queues == 1 && net.fds[0] == 0 && !net.name);
    net = parse("fd=7:3:2147483647");
    cr_expect(net.queues == 3 && net.fds[0] == 7 && net.fds[1] == 3 && net.fds[2] == 2147483647);
}

Test(config_net, properties)
{
    struct config_net net = parse("tap=t,mac=52:54:00:aB:Cd:0f,mtu=9000,queues=16");
    cr_expect(net.has_mac && net.mtu == 9000 && net.queues == 16);
    cr_expect_eq(memcmp(net.mac, "\x52\x54\x00\xAB\xCD\x0F", 6), 0);
    config_net_free(&net);
    net = parse("fd=3:4,queues=2,mtu=68,mtu=65535");
    cr_expect(net.queues == 2 && net.mtu == 65535);
    net = parse("passt=p,queues=1");
    config_net_free(&net);
}

Test(config_net, paths_are_relative_to_the_folder)
{
    struct config_net net;
    cr_assert_eq(config_net_parse(&net, "passt=p", "sub", NULL), 0);
    cr_expect_str_eq(net.name, "sub/p");
    config_net_free(&net);
    cr_assert_eq(config_net_parse(&net, "passt=/p", "sub", NULL), 0);
    cr_expect_str_eq(net.name, "/p");
    config_net_free(&net);
    cr_assert_eq(config_net_parse(&net, "tap=p", "sub", NULL), 0);
    cr_expect_str_eq(net.name, "p");
    config_net_free(&net);
}

Test(config_net, refused)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "'' does not say what the card leads to; begin with tap=NAME, fd=N or passt=PATH"},
        {"tap", "'tap' does not say"},
        {"mtu=1500,tap=a", "'mtu=1500' does not say"},
        {"user", "'user' does not say"},
        {"tap=", "tap: the name is empty"},
        {"passt=,mtu=1500", "passt: the path is empty"},
        {"fd=", "fd: '' is no descriptor"},
        {"fd=-1", "fd: '-1' is no descriptor"},
        {"fd=3:", "fd: '3:' is no descriptor"},
        {"fd=:3", "fd: ':3' is no descriptor"},
        {"fd=3;4", "fd: '3;4' is no descriptor"},
        {"fd=2147483648", "is no descriptor"},
        {"fd=99999999999999999999", "is no descriptor"},
        {"fd=3:4:3", "has 3 twice"},
        {"fd=1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17", "more than the 16 queues"},
        {"fd=3,queues=2", "2 queues do not go with 1 descriptors"},
        {"tap=a,fd=3", "'fd=3' is no property of a network card; write mac=MAC, mtu=N or queues=N"},
        {"tap=a,", "'' is no property"},
        {"tap=a,ro", "'ro' is no property"},
        {"passt=a,queues=2", "passt has only one"},
        {"tap=a,queues=0", "'0' is not a number of queues; give 1 to 16"},
        {"tap=a,queues=17", "'17' is not a number"},
        {"tap=a,queues=2x", "'2x' is not a number"},
        {"tap=a,queues= 2", "' 2' is not a number"},
        {"tap=a,mtu=67", "'67' is no MTU; give 68 to 65535"},
        {"tap=a,mtu=65536", "'65536' is no MTU"},
        {"tap=a,mtu=18446744073709551684", "is no MTU"},
        {"tap=a,mtu=", "'' is no MTU"},
        {"tap=a,mac=", "'' is no MAC address"},
        {"tap=a,mac=52:54:00:12:34", "is no MAC address"},
        {"tap=a,mac=52:54:00:12:34:5", "is no MAC address"},
        {"tap=a,mac=52:54:00:12:34:567", "is no MAC address"},
        {"tap=a,mac=52-54-00-12-34-56", "is no MAC address"},
        {"tap=a,mac=52:54:00:12:34:5g", "is no MAC address"},
        {"tap=a,mac=52:54:00:12:34: 6", "is no MAC address"},
        {"tap=a,mac=0x:54:00:12:34:56", "is no MAC address"},
        {"tap=a,mac=53:54:00:12:34:56", "is the address of a group"},
        {"tap=a,mac=ff:ff:ff:ff:ff:ff", "is the address of a group"},
        {"tap=a,mac=00:00:00:00:00:00", "all zeroes"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        refuses(cases[i].text, cases[i].says);
}

/* Configures a machine with both cards. */
static int together(const char *one, const char *other, struct error *err)
{
    struct config config;
    char *argv[] = {"--kernel=k", "--net", (char *)one, "--net", (char *)other};
    int result = config_parse(&config, ARRAY_SIZE(argv), argv, err);
    cr_expect(result < 0 || config.net_count == 2);
    config_free(&config);
    return result;
}

Test(config_net, cards_share_nothing)
{
    static const struct {
        const char *one, *other, *says;
    } cases[] = {
        {"tap=a", "tap=a,queues=2", "--net: 'a' is what another card leads to"},
        {"passt=a", "passt=a", "'a' is what another card leads to"},
        {"fd=3:4", "fd=5:4", "fd: 4 is another card's"},
        {"tap=a,mac=52:54:00:12:34:56", "tap=b,mac=52:54:00:12:34:56", "mac: another card has the same"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct error err = {0};
        cr_expect_eq(together(cases[i].one, cases[i].other, &err), -EINVAL, "%s", cases[i].one);
        cr_expect(strstr(err.message, cases[i].says), "%s", err.message);
    }
    cr_expect_eq(together("tap=a", "passt=a", NULL), 0);
    cr_expect_eq(together("tap=a,mac=52:54:00:12:34:56", "tap=b,mac=52:54:00:12:34:57", NULL), 0);
    cr_expect_eq(together("fd=3", "fd=4", NULL), 0);
}

Test(config_net, as_many_as_a_bus_has_places)
{
    char *argv[2 * CONFIG_NETS_MAX + 3] = {"--kernel=k"};
    char texts[CONFIG_NETS_MAX + 1][16];
    struct config config;
    struct error err = {0};
    for (int i = 0; i <= CONFIG_NETS_MAX; i++) {
        snprintf(texts[i], sizeof(texts[i]), "tap=tap%d", i);
        argv[1 + 2 * i] = "--net";
        argv[2 + 2 * i] = texts[i];
    }
    cr_expect_eq(config_parse(&config, 2 * CONFIG_NETS_MAX + 1, argv, &err), 0, "%s", err.message);
    cr_expect_eq(config.net_count, CONFIG_NETS_MAX);
    config_free(&config);
    cr_expect_eq(config_parse(&config, 2 * CONFIG_NETS_MAX + 3, argv, &err), -EINVAL);
    cr_expect(strstr(err.message, "one more than the 31 network cards"), "%s", err.message);
    config_free(&config);
}
