/*
 * Exit statuses of godwit, beside the byte that a guest writes to the exit port.
 */
#pragma once

enum exit_status {
    EXIT_STATUS_OK = 0, /* done; or the guest powered off, reset for good, or was quit from the terminal */
    EXIT_STATUS_FAILED = 1,      /* host, file or configuration */
    EXIT_STATUS_USAGE = 2,       /* command line */
    EXIT_STATUS_GUEST_CRASH = 3, /* KVM cannot go on with the guest */
    EXIT_STATUS_SIGNAL = 128,    /* plus the number of the signal that ended godwit */
};
