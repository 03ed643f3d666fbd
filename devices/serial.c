#include "devices/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"
#include "devices/chardev.h"
#include "devices/ring.h"
#include "memory/region.h"

#define FIFO_SIZE     16
#define OVERFLOW_SIZE 4096 /* what is kept beyond the transmitter FIFO while waiting is off */

/* Register offsets; the first two are the divisor while LCR_DLAB is set. */
enum {
    REGISTER_DATA,
    REGISTER_IER,
    REGISTER_IIR_FCR,
    REGISTER_LCR,
    REGISTER_MCR,
    REGISTER_LSR,
    REGISTER_MSR,
    REGISTER_SCRATCH,
    REGISTER_COUNT,
};

#define IER_RECEIVED       0x01
#define IER_THRE           0x02
#define IER_LINE_STATUS    0x04
#define IER_MODEM_STATUS   0x08
#define IER_MASK           0x0F

#define IIR_NONE           0x01
#define IIR_MODEM_STATUS   0x00
#define IIR_THRE           0x02
#define IIR_RECEIVED       0x04
#define IIR_LINE_STATUS    0x06
#define IIR_TIMEOUT        0x0C
#define IIR_FIFO_ENABLED   0xC0

#define FCR_ENABLE         0x01
#define FCR_RESET_RECEIVER 0x02
#define FCR_RESET_TRANSMIT 0x04
#define FCR_TRIGGER_SHIFT  6

#define LCR_DLAB           0x80

#define MCR_DTR            0x01
#define MCR_RTS            0x02
#define MCR_OUT1           0x04
#define MCR_OUT2           0x08
#define MCR_LOOP           0x10
#define MCR_MASK           0x1F

#define LSR_DATA_READY     0x01
#define LSR_OVERRUN        0x02
#define LSR_THRE           0x20
#define LSR_TEMT           0x40

#define MSR_TERI           0x04 /* trailing edge of RI: it counts only as it goes */
#define MSR_CTS            0x10
#define MSR_DSR            0x20
#define MSR_RI             0x40
#define MSR_DCD            0x80
#define MSR_DELTA_SHIFT    4 /* from a line to the bit that says that it has changed */

struct serial {
    struct memory_region region;
    struct serial_config config;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t room;  /* the transmitter FIFO has some, or waiting has been turned off */
    bool waiting_allowed;
    bool irq_level;
    struct ring receiver, transmitter;
    bool thre_pending; /* the transmitter ran empty, and the guest has not taken note */
    bool idle_seen;    /* the last look at LSR showed nothing to do in either direction */
    uint8_t divisor[2];
    uint8_t ier, fcr, lcr, mcr, scratch;
    uint8_t overrun; /* LSR_OVERRUN or 0 */
    uint8_t msr;
};

static bool fifo_enabled(const struct serial *serial)
{
    return serial->fcr & FCR_ENABLE;
}

static size_t fifo_capacity(const struct serial *serial)
{
    return fifo_enabled(serial) ? FIFO_SIZE : 1;
}

static size_t receiver_trigger(const struct serial *serial)
{
    static const uint8_t triggers[] = {1, 4, 8, 14};
    return fifo_enabled(serial) ? triggers[serial->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/*
 * The interrupt of highest priority. Data below the trigger level are a character time-out as soon as they
 * are there: what the host has to give has been given, so no more is coming just now.
 */
static uint8_t interrupt_id(const struct serial *serial)
{
    if ((serial->ier & IER_LINE_STATUS) && serial->overrun)
        return IIR_LINE_STATUS;
    if ((serial->ier & IER_RECEIVED) && serial->receiver.count > 0)
        return serial->receiver.count >= receiver_trigger(serial) ? IIR_RECEIVED : IIR_TIMEOUT;
    if ((serial->ier & IER_THRE) && serial->thre_pending)
        return IIR_THRE;
    if ((serial->ier & IER_MODEM_STATUS) && (serial->msr & 0x0F))
        return IIR_MODEM_STATUS;
    return IIR_NONE;
}

static void set_irq(struct serial *serial, bool level)
{
    if (level == serial->irq_level)
        return;
    serial->irq_level = level;
    irq_line_set(&serial->config.irq, level);
}

/* In loopback mode OUT2 is off whatever MCR says, and with it the interrupt. */
static bool irq_connected(const struct serial *serial)
{
    return (serial->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
}

static void update_irq(struct serial *serial)
{
    set_irq(serial, irq_connected(serial) && interrupt_id(serial) != IIR_NONE);
}

static void receive(struct serial *serial)
{
    size_t capacity = fifo_capacity(serial);
    if ((serial->mcr & MCR_LOOP) || serial->receiver.count >= capacity)
        return;
    uint8_t data[FIFO_SIZE];
    size_t count = chardev_read(serial->config.chardev, data, capacity - serial->receiver.count);
    ring_put(&serial->receiver, data, count);
}

/*
 * A guest that input would interrupt gets it. Any other has to ask (read_iir(), read_lsr()), and until then
 * input waits outside: a driver that tries the registers out and empties the FIFOs as it starts must not lose
 * what was typed before.
 */
static void receive_if_awaited(struct serial *serial)
{
    if ((serial->ier & IER_RECEIVED) && irq_connected(serial))
        receive(serial);
}

/* Passes on what the character device takes. */
static void drain_transmitter(struct serial *serial)
{
    bool had_data = serial->transmitter.count > 0;
    const uint8_t *data;
    size_t count, taken = 1;
    while (taken > 0 && (count = ring_peek(&serial->transmitter, &data)) > 0) {
        taken = chardev_write(serial->config.chardev, data, count);
        ring_drop(&serial->transmitter, taken);
    }
    if (had_data && serial->transmitter.count == 0)
        serial->thre_pending = true;
    if (serial->transmitter.count < fifo_capacity(serial))
        pthread_cond_broadcast(&serial->room);
}

static void loop_back(struct serial *serial, uint8_t value)
{
    if (serial->receiver.count < fifo_capacity(serial))
        ring_put(&serial->receiver, &value, 1);
    else
        serial->overrun = LSR_OVERRUN;
    serial->thre_pending = true;
}

static void transmit(struct serial *serial, uint8_t value)
{
    if (serial->mcr & MCR_LOOP) {
        loop_back(serial, value);
        return;
    }
    while (serial->waiting_allowed && serial->transmitter.count >= fifo_capacity(serial))
        pthread_cond_wait(&serial->room, &serial->lock);
    serial->thre_pending = false;
    ring_put(&serial->transmitter, &value, 1);
    if (serial->transmitter.count == 1)
        drain_transmitter(serial);
}

/*
 * New bytes come as soon as the FIFO has run empty. The interrupt line drops for a moment then, so that an
 * edge-triggered interrupt controller sees each batch, even if the guest's handler gives up in the middle of
 * an endless stream.
 */
static uint8_t read_data(struct serial *serial)
{
    uint8_t value = 0;
    ring_get(&serial->receiver, &value, 1);
    if (serial->receiver.count == 0) {
        receive_if_awaited(serial);
        if (serial->receiver.count > 0)
            set_irq(serial, false);
    }
    return value;
}

static uint8_t read_iir(struct serial *serial)
{
    if (serial->ier & IER_RECEIVED)
        receive(serial);
    uint8_t id = interrupt_id(serial);
    if (id == IIR_THRE)
        serial->thre_pending = false;
    return id | (fifo_enabled(serial) ? IIR_FIFO_ENABLED : 0);
}

/* A guest that looks again although there was nothing to send and nothing received polls for input. */
static uint8_t read_lsr(struct serial *serial)
{
    if (serial->idle_seen)
        receive(serial);
    uint8_t value = serial->overrun;
    if (serial->receiver.count > 0)
        value |= LSR_DATA_READY;
    if (serial->transmitter.count == 0)
        value |= LSR_THRE | LSR_TEMT;
    serial->overrun = 0;
    serial->idle_seen = value == (LSR_THRE | LSR_TEMT);
    return value;
}

/* The modem lines: a terminal that is always there, or our own outputs in loopback mode. */
static uint8_t modem_lines(const struct serial *serial)
{
    uint8_t mcr = serial->mcr;
    if (!(mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
           (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem_status(struct serial *serial)
{
    uint8_t lines = modem_lines(serial);
    uint8_t changed = (lines ^ serial->msr) & 0xF0;
    uint8_t deltas = changed >> MSR_DELTA_SHIFT;
    if (lines & MSR_RI)
        deltas &= (uint8_t)~MSR_TERI;
    serial->msr = (uint8_t)(lines | (serial->msr & 0x0F) | deltas);
}

static uint8_t read_msr(struct serial *serial)
{
    uint8_t value = serial->msr;
    serial->msr &= 0xF0;
    return value;
}

static uint8_t read_register(struct serial *serial, unsigned offset)
{
    switch (offset) {
    case REGISTER_DATA:
        return serial->lcr & LCR_DLAB ? serial->divisor[0] : read_data(serial);
    case REGISTER_IER:
        return serial->lcr & LCR_DLAB ? serial->divisor[1] : serial->ier;
    case REGISTER_IIR_FCR:
        return read_iir(serial);
    case REGISTER_LCR:
        return serial->lcr;
    case REGISTER_MCR:
        return serial->mcr;
    case REGISTER_LSR:
        return read_lsr(serial);
    case REGISTER_MSR:
        return read_msr(serial);
    default:
        return serial->scratch;
    }
}

static void write_ier(struct serial *serial, uint8_t value)
{
    value &= IER_MASK;
    if ((value & ~serial->ier & IER_THRE) && serial->transmitter.count == 0)
        serial->thre_pending = true;
    serial->ier = value;
    receive_if_awaited(serial);
}

static void reset_transmitter(struct serial *serial)
{
    if (serial->transmitter.count == 0)
        return;
    ring_drop(&serial->transmitter, serial->transmitter.count);
    serial->thre_pending = true;
    pthread_cond_broadcast(&serial->room);
}

/* Turning the FIFOs on or off empties them; the other bits count only while they are on. */
static void write_fcr(struct serial *serial, uint8_t value)
{
    if (!(value & FCR_ENABLE))
        value = 0;
    bool toggled = (value ^ serial->fcr) & FCR_ENABLE;
    if (toggled || (value & FCR_RESET_RECEIVER))
        ring_drop(&serial->receiver, serial->receiver.count);
    if (toggled || (value & FCR_RESET_TRANSMIT))
        reset_transmitter(serial);
    serial->fcr = value;
    receive_if_awaited(serial);
}

static void write_mcr(struct serial *serial, uint8_t value)
{
    serial->mcr = value & MCR_MASK;
    update_modem_status(serial);
    receive_if_awaited(serial);
}

static void write_register(struct serial *serial, unsigned offset, uint8_t value)
{
    switch (offset) {
    case REGISTER_DATA:
        if (serial->lcr & LCR_DLAB)
            serial->divisor[0] = value;
        else
            transmit(serial, value);
        break;
    case REGISTER_IER:
        if (serial->lcr & LCR_DLAB)
            serial->divisor[1] = value;
        else
            write_ier(serial, value);
        break;
    case REGISTER_IIR_FCR:
        write_fcr(serial, value);
        break;
    case REGISTER_LCR:
        serial->lcr = value;
        break;
    case REGISTER_MCR:
        write_mcr(serial, value);
        break;
    case REGISTER_SCRATCH:
        serial->scratch = value;
        break;
    default: /* LSR and MSR are written by factory tests only */
        break;
    }
}

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    if (offset != REGISTER_LSR && offset != REGISTER_MSR)
        serial->idle_seen = false;
    uint8_t value = read_register(serial, (unsigned)offset);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    return value;
}

static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    serial->idle_seen = false;
    write_register(serial, (unsigned)offset, (uint8_t)value);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
}

static void input_readable(void *opaque)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    receive_if_awaited(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
}

static void output_writable(void *opaque)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    drain_transmitter(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
}

static void free_serial(struct serial *serial)
{
    ring_free(&serial->receiver);
    ring_free(&serial->transmitter);
    pthread_mutex_destroy(&serial->lock);
    pthread_cond_destroy(&serial->room);
    free(serial);
}

static struct serial *new_serial(const struct serial_config *config)
{
    struct serial *serial = calloc(1, sizeof(*serial));
    if (!serial)
        return NULL;
    *serial = (struct serial){
        .config = *config, .waiting_allowed = true, .divisor = {12}, /* 9600 baud */
    };
    serial->msr = modem_lines(serial);
    pthread_mutex_init(&serial->lock, NULL);
    pthread_cond_init(&serial->room, NULL);
    if (ring_init(&serial->receiver, FIFO_SIZE, FIFO_SIZE) ||
        ring_init(&serial->transmitter, FIFO_SIZE, FIFO_SIZE + OVERFLOW_SIZE)) {
        free_serial(serial);
        return NULL;
    }
    return serial;
}

int serial_create(const struct serial_config *config, struct memory *memory, struct serial **out,
                  struct error *err)
{
    static const struct memory_region_ops ops = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 8, .unaligned = true},
        .impl = {.min = 1, .max = 1},
    };
    struct serial *serial = new_serial(config);
    if (!serial)
        return error_set(err, ENOMEM, "not enough memory for a serial port");
    int result =
        memory_region_init_mmio(&serial->region, memory, "serial", &ops, serial, REGISTER_COUNT, err);
    if (result) {
        free_serial(serial);
        return result;
    }
    chardev_attach(config->chardev, &(struct chardev_front_end){
                                        .readable = input_readable,
                                        .writable = output_writable,
                                        .opaque = serial,
                                    });
    *out = serial;
    return 0;
}

struct memory_region *serial_region(struct serial *serial)
{
    return &serial->region;
}

void serial_allow_waiting(struct serial *serial, bool allowed)
{
    pthread_mutex_lock(&serial->lock);
    serial->waiting_allowed = allowed;
    pthread_cond_broadcast(&serial->room);
    pthread_mutex_unlock(&serial->lock);
}

int serial_flush(struct serial *serial, int interrupt)
{
    size_t left;
    do {
        int result = chardev_flush(serial->config.chardev, interrupt);
        if (result)
            return result;
        pthread_mutex_lock(&serial->lock);
        drain_transmitter(serial);
        left = serial->transmitter.count;
        pthread_mutex_unlock(&serial->lock);
    } while (left > 0);
    return chardev_flush(serial->config.chardev, interrupt);
}

void serial_destroy(struct serial *serial)
{
    if (!serial)
        return;
    chardev_attach(serial->config.chardev, NULL);
    memory_region_destroy(&serial->region);
    free_serial(serial);
}
