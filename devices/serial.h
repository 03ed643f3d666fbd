/*
 * A 16550A serial port: eight byte-wide registers with 16-byte FIFOs, modem lines that show a connected
 * terminal, and one interrupt line. The baud rate divisor is kept but means nothing: a byte takes no time.
 *
 * No byte is lost in either direction. Input is taken from the character device only as the receiver FIFO has
 * room, so there is no overrun. Output the character device does not take stays in the transmitter FIFO: THRE
 * and TEMT stay clear and their interrupt is not raised until it has gone. A guest that writes into a full
 * FIFO, as `rep outsb` without a look at THRE does, waits inside that write until there is room
 * (serial_allow_waiting()).
 *
 * Writes to the transmitter are not coalesced: a held-back byte would show only at the guest's next exit,
 * which may never come. Batching is the character device's business.
 *
 * The port owns its lock, and takes the character device's lock inside it. The interrupt line is set under
 * the port's lock.
 *
 * Specification: National Semiconductor PC16550D data sheet (June 1995), sections 8.1 to 8.9. As on PCs, OUT2
 * gates the interrupt.
 */
#pragma once

#include <stdbool.h>

#include "devices/irq_line.h"

struct chardev;
struct error;
struct memory;
struct memory_region;
struct serial;

struct serial_config {
    struct chardev *chardev; /* borrowed; the port attaches itself as the front end */
    struct irq_line irq;
};

/*
 * Creates the port in its reset state. While the event loop of the character device does not run. -ENOMEM, or
 * what the region's initialiser says.
 */
int serial_create(const struct serial_config *config, struct memory *memory, struct serial **out,
                  struct error *err);

/* Eight bytes. Owned by the port; must be out of its container before serial_destroy(). */
struct memory_region *serial_region(struct serial *serial);

/*
 * Whether a write into the full transmitter FIFO waits (so it is at the start). To stop vCPUs, ask them to
 * stop and then turn waiting off: waiting writes return at once, and theirs and the next 4 KiB are kept
 * beyond the FIFO; what comes on top of that is dropped. Any thread.
 */
void serial_allow_waiting(struct serial *serial, bool allowed);

/*
 * Waits until the guest's output has left godwit, or `interrupt` is readable: chardev_flush() with the
 * transmitter FIFO. When the guest has stopped; on the event loop's thread, or while it does not run.
 */
int serial_flush(struct serial *serial, int interrupt);

/* When neither the guest nor the event loop runs any more. NULL is allowed. */
void serial_destroy(struct serial *serial);
