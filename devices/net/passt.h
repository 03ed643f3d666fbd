/*
 * A network backend on passt(1), a user-mode network stack: the guest shares the host's connections, and
 * nobody needs a privilege. passt runs by itself, and is reached by its UNIX socket.
 *
 * passt finishes frames and expects finished ones: there are no offloads, and one queue. When passt goes
 * away, or sends what makes no sense, the connection ends and the link is down; every second another one is
 * tried, and the link is up again when that works. passt serves one machine at a time.
 *
 * The protocol is that of QEMU's stream sockets (passt_stream.h).
 */
#pragma once

struct error;
struct event_loop;
struct log;
struct net_backend;

struct passt_config {
    const char *path;        /* of the socket; borrowed, as is the rest */
    struct event_loop *loop; /* on which changes of the link are told */
    const struct log *log;
};

/* Connects to the socket. -errno with a message: nobody listens there, no permission, a path that is too
 * long. On the loop's thread, or while the loop does not run; so too for net_backend_destroy(). */
int passt_open(const struct passt_config *config, struct net_backend **backend, struct error *err);
