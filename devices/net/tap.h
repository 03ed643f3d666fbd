/*
 * A network backend on a tap interface of the host: what the guest sends, the host's kernel receives there,
 * and the other way round. Linux documents it in Documentation/networking/tuntap.rst.
 *
 * Frames carry the kernel's header (IFF_VNET_HDR), so that checksums and segmentation are left to whoever
 * does them best; several queues are several descriptors of one interface (IFF_MULTI_QUEUE).
 *
 * A tap interface lives in its network namespace whether or not godwit runs, if it was made to last ("ip
 * tuntap add"); otherwise godwit makes it, where it has the right, and it goes when godwit ends. An interface
 * that is deleted under a running guest is a link that goes down for good.
 *
 * Frames move by readv(2) and writev(2) on a descriptor that does not block: one system call each. An
 * io_uring with a batch of 64 reads was tried (kernel 6.18, frames of 60 to 1514 bytes): 5 % less time where
 * exactly as many frames wait as were asked for (351 ns instead of 371 ns each), but 225 ns for every read
 * that finds none, and nothing gained in sending (433 ns both ways).
 */
#pragma once

#include <stdint.h>

struct error;
struct event_loop;
struct log;
struct net_backend;

#define TAP_NAME_MAX 15 /* characters in the name of an interface */

struct tap_config {
    const char *name; /* of an interface; NULL: it is given by descriptors */
    const int *fds;   /* of /dev/net/tun with an interface attached to each, one for each queue; borrowed */
    unsigned queues;  /* 1 to NET_QUEUES_MAX; as many as there are `fds` */
    uint16_t mtu;     /* given to an interface that is made here; 0: as it comes */
    struct event_loop *loop; /* learns when the interface goes away; borrowed, as is the log */
    const struct log *log;
};

/*
 * Attaches to the interface, or makes it and sets it up. Descriptors are duplicated, made not to block, and
 * not passed on to programs that godwit starts; an interface that was opened without headers works, without
 * offloads. -errno with a message: no such interface, no permission, in use, not a tap, made without
 * several queues. May wait for a second for what a killed process used. On the loop's thread, or while the
 * loop does not run; so too for net_backend_destroy().
 */
int tap_open(const struct tap_config *config, struct net_backend **backend, struct error *err);
