/*
 * The way in which a guest ends its machine: devices through which a guest asks for power off, reset or an
 * exit status hand the request to the machine through this value.
 */
#pragma once

enum shutdown_cause {
    SHUTDOWN_POWER_OFF,
    SHUTDOWN_RESET,
    SHUTDOWN_EXIT, /* with an exit status of 0 to 255 */
};

struct shutdown_handler {
    /*
     * Called from the thread that makes the guest's access, any number of times, with no device lock held. It
     * must not block. `status` is 0 but for SHUTDOWN_EXIT.
     */
    void (*request)(void *opaque, enum shutdown_cause cause, int status);
    void *opaque;
};
