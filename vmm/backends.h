/*
 * What a machine's devices stand on in the host: disk images, networks. They are opened, and locked, before
 * the machine is made and closed after it, so a guest that resets gets a new machine on the same backends,
 * and nobody takes one away meanwhile.
 *
 * Made and freed by the machine's thread, while the event loop does not run.
 */
#pragma once

#include "vmm/config.h"

struct disk;
struct error;
struct event_loop;
struct log;
struct net_backend;

/* Zeroed, it has none open. To be read only by others. */
struct backends {
    struct disk *disks[CONFIG_DISKS_MAX]; /* one for each of the configuration's, as are the others */
    struct net_backend *nets[CONFIG_NETS_MAX];
};

/*
 * Opens what the configuration names. Where the machine is only looked at, images are not locked, and
 * networks lead nowhere. The loop, on which networks tell of their links, and the log are borrowed. -errno
 * with a message; backends_close() in every case.
 */
int backends_open(struct backends *backends, const struct config *config, struct event_loop *loop,
                  const struct log *log, struct error *err);

/* No machine uses them. */
void backends_close(struct backends *backends);
