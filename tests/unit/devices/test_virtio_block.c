#include <fcntl.h>
#include <stddef.h>

#include "tests/unit/devices/block_fixture.h"

/* Places in the guest's RAM. */
#define OUT     MMIO_GUEST_DATA
#define IN      (MMIO_GUEST_DATA + 0x10000)
#define NONE    0xEE /* no status was written */
#define HEADER  sizeof(struct virtio_blk_outhdr)
#define BUFFERS 12

static struct block_fixture f;

/* One chain: its two halves lie at OUT and IN, cut into buffers of these sizes (0: no more). */
struct layout {
    uint32_t out[BUFFERS], in[BUFFERS];
    bool indirect;
};

/* Returns the status. */
static uint8_t carry_out(const struct layout *layout)
{
    struct queue_driver_buffer buffers[2 * BUFFERS];
    uint32_t out = 0, in = 0, written;
    unsigned count = 0;
    for (unsigned i = 0; i < BUFFERS && layout->out[i]; out += layout->out[i++])
        buffers[count++] = (struct queue_driver_buffer){OUT + out, layout->out[i], false};
    for (unsigned i = 0; i < BUFFERS && layout->in[i]; in += layout->in[i++])
        buffers[count++] = (struct queue_driver_buffer){IN + in, layout->in[i], true};
    uint8_t *end = mmio_guest_memory(&f.guest, IN + in);
    end[-1] = NONE;
    end[0] = 0x77;
    cr_assert(mmio_guest_offer(&f.guest, 0, 7, buffers, count, layout->indirect));
    cr_assert_eq(wait_for_chain(&f, 0, &written), 7);
    cr_assert_eq(end[0], 0x77);
    cr_assert_eq(written, in);
    return end[-1];
}

static void *out_data(void)
{
    return mmio_guest_memory(&f.guest, OUT + HEADER);
}

static void *in_data(void)
{
    return mmio_guest_memory(&f.guest, IN);
}

static void set_header(uint32_t type, uint64_t sector)
{
    *(struct virtio_blk_outhdr *)mmio_guest_memory(&f.guest, OUT) = block_header(type, sector);
}

/* A request with `out` bytes behind its header and room for `in` before its status. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t out, uint32_t in)
{
    set_header(type, sector);
    return carry_out(&(struct layout){.out = {HEADER, out}, .in = {in ? in : 1, in ? 1 : 0}});
}

static void start(enum disk_cache cache, bool readonly, uint64_t features)
{
    fixture_start(&f, cache, readonly);
    mmio_guest_start(&f.guest, features);
}

static uint32_t get_config(size_t place, size_t size)
{
    uint32_t value = mmio_guest_get(&f.guest, MMIO_GUEST_CONFIG + (unsigned)(place & ~3u)) >> place % 4 * 8;
    return size < 4 ? value & ((1u << size * 8) - 1) : value;
}

#define CONFIG(field)                                                                                        \
    get_config(offsetof(struct virtio_blk_config, field), sizeof(((struct virtio_blk_config *)0)->field))

Test(virtio_block, describes_its_disk)
{
    fixture_start(&f, DISK_CACHE_WRITEBACK, false);
    uint64_t offered = mmio_guest_offered(&f.guest);
    static const unsigned features[] = {
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY,     VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_MQ,      VIRTIO_BLK_F_DISCARD,  VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_F_CONFIG_WCE,
    };
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
        cr_assert(offered & BIT(features[i]), "%u", features[i]);
    cr_assert(!(offered & BIT(VIRTIO_BLK_F_RO)));
    cr_assert_eq(get_config(0, 4), DISK_SIZE / 512);
    cr_assert_eq(get_config(4, 4), 0);
    cr_assert_eq(CONFIG(seg_max), 254);
    cr_assert_eq(CONFIG(blk_size), 512);
    cr_assert_eq(CONFIG(physical_block_exp), 3);
    cr_assert_eq(CONFIG(min_io_size), 8);
    cr_assert_eq(CONFIG(num_queues), QUEUES);
    cr_assert_eq(CONFIG(discard_sector_alignment) % 8, 0);
    cr_assert_gt(CONFIG(max_discard_seg), 0);
    cr_assert_gt(CONFIG(max_write_zeroes_sectors), 0);
    fixture_end(&f);
}

static void set_cache(uint8_t writeback)
{
    uint64_t place = MMIO_GUEST_REGISTERS + MMIO_GUEST_CONFIG + offsetof(struct virtio_blk_config, wce);
    cr_assert_eq(address_space_write(f.guest.guest.space, place, &writeback, 1), 0);
}

Test(virtio_block, lets_the_driver_switch_its_cache)
{
    start(DISK_CACHE_WRITEBACK, false, 0);
    cr_assert_eq(CONFIG(wce), 1);
    set_cache(0);
    cr_assert_eq(CONFIG(wce), 1, "not negotiated");
    cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
    mmio_guest_reset(&f.guest);
    mmio_guest_start(&f.guest, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    set_cache(0);
    cr_assert_eq(CONFIG(wce), 0);
    cr_assert_eq(CONFIG(num_queues), QUEUES);
    cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
    mmio_guest_reset(&f.guest);
    cr_assert_eq(CONFIG(wce), 1);
    fixture_end(&f);
}

/* Writes 1024 bytes and reads them back. */
static void write_and_read(const struct layout *write, const struct layout *read, uint64_t sector)
{
    uint8_t expected[1024];
    for (unsigned i = 0; i < sizeof(expected); i++)
        expected[i] = (uint8_t)(i * 7 + i / 256 + sector);
    set_header(VIRTIO_BLK_T_OUT, sector);
    memcpy(out_data(), expected, sizeof(expected));
    cr_assert_eq(carry_out(write), VIRTIO_BLK_S_OK);
    set_header(VIRTIO_BLK_T_IN, sector);
    memset(in_data(), 0, sizeof(expected));
    cr_assert_eq(carry_out(read), VIRTIO_BLK_S_OK);
    cr_assert_eq(memcmp(in_data(), expected, sizeof(expected)), 0);
    uint8_t found[1024];
    cr_assert_eq(pread(f.file.fd, found, sizeof(found), (off_t)sector * 512), sizeof(found));
    cr_assert_eq(memcmp(found, expected, sizeof(expected)), 0);
}

Test(virtio_block, takes_requests_in_any_layout)
{
    static const struct layout writes[] = {
        {.out = {HEADER, 1024}, .in = {1}},
        {.out = {HEADER + 1024}, .in = {1}},
        {.out = {5, 11, 1024}, .in = {1}},
        {.out = {1, 1, 1, 30, 1, 511, 495}, .in = {1}},
        {.out = {HEADER, 512, 512}, .in = {1}, .indirect = true},
        {.out = {HEADER + 1, 1023}, .in = {1}, .indirect = true},
    };
    static const struct layout reads[] = {
        {.out = {HEADER}, .in = {1024, 1}},
        {.out = {HEADER}, .in = {1025}},
        {.out = {15, 1}, .in = {1, 1, 1021, 1, 1}},
        {.out = {8, 8}, .in = {512, 513}},
        {.out = {HEADER}, .in = {512, 512, 1}, .indirect = true},
        {.out = {1, 15}, .in = {1000, 25}, .indirect = true},
    };
    static const enum disk_cache caches[] = {DISK_CACHE_WRITEBACK, DISK_CACHE_NONE, DISK_CACHE_UNSAFE};
    for (unsigned packed = 0; packed < 2; packed++) {
        for (unsigned cache = 0; cache < ARRAY_SIZE(caches); cache++) {
            start(caches[cache], false,
                  BIT(VIRTIO_RING_F_INDIRECT_DESC) | (packed ? BIT(VIRTIO_F_RING_PACKED) : 0));
            for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
                for (unsigned j = 0; j < ARRAY_SIZE(reads); j++)
                    write_and_read(&writes[i], &reads[j], 16 * i + 2 * j);
            fixture_end(&f);
        }
    }
}

static void set_range(unsigned index, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes *ranges = out_data();
    ranges[index] =
        (struct virtio_blk_discard_write_zeroes){.sector = sector, .num_sectors = sectors, .flags = flags};
}

/* Which of the disk's blocks of 4096 bytes are all zeroes, of the first 32. */
static uint32_t empty_blocks(void)
{
    uint32_t empty = 0;
    for (unsigned i = 0; i < 32; i++) {
        static const uint8_t zeroes[4096];
        uint8_t found[4096];
        cr_assert_eq(pread(f.file.fd, found, sizeof(found), i * 4096), sizeof(found));
        empty |= !memcmp(found, zeroes, sizeof(found)) ? 1u << i : 0;
    }
    return empty;
}

static void fill_disk(void)
{
    uint8_t ones[4096];
    memset(ones, 1, sizeof(ones));
    for (unsigned i = 0; i < DISK_SIZE / 4096; i++)
        cr_assert_eq(pwrite(f.file.fd, ones, sizeof(ones), i * 4096), sizeof(ones));
}

Test(virtio_block, discards_and_writes_zeroes)
{
    start(DISK_CACHE_WRITEBACK, false,
          BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES));
    fill_disk();
    set_range(0, 8, 8, 0);
    set_range(1, 32, 16, 0);
    cr_assert_eq(request(VIRTIO_BLK_T_DISCARD, 0, 32, 0), VIRTIO_BLK_S_OK);
    cr_assert_eq(empty_blocks(), 0x32);
    fill_disk();
    set_range(0, 0, 8, 1);
    set_range(1, 16, 8, 0);
    set_range(2, 255, 1, 0);
    cr_assert_eq(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 48, 0), VIRTIO_BLK_S_OK);
    cr_assert_eq(empty_blocks(), 0x5);
    fixture_end(&f);
}

Test(virtio_block, answers_for_what_was_not_negotiated)
{
    start(DISK_CACHE_WRITEBACK, false, 0);
    fill_disk();
    set_range(0, 8, 8, 0);
    cr_assert_eq(request(VIRTIO_BLK_T_DISCARD, 0, 16, 0), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(empty_blocks(), 0);
    fixture_end(&f);
}

Test(virtio_block, flushes_and_tells_its_serial_number)
{
    start(DISK_CACHE_WRITEBACK, false, BIT(VIRTIO_BLK_F_FLUSH));
    char expected[24] = "godwit-disk";
    cr_assert_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
    memset(in_data(), 0xFF, 24);
    cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 0, 20), VIRTIO_BLK_S_OK);
    cr_assert_eq(memcmp(in_data(), expected, 20), 0);
    memset(in_data(), 0xFF, 24);
    cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 0, 4), VIRTIO_BLK_S_OK);
    cr_assert_eq(memcmp(in_data(), "godw", 4), 0);
    cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 0, 0), VIRTIO_BLK_S_OK);
    fixture_end(&f);
}

Test(virtio_block, does_not_write_a_read_only_disk)
{
    fixture_start(&f, DISK_CACHE_WRITEBACK, true);
    uint64_t offered = mmio_guest_offered(&f.guest);
    cr_assert(offered & BIT(VIRTIO_BLK_F_RO));
    cr_assert(!(offered & (BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))));
    mmio_guest_start(&f.guest, BIT(VIRTIO_BLK_F_RO));
    cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
    cr_assert_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
    fixture_end(&f);
}

Test(virtio_block, tells_of_an_error_when_its_file_was_truncated)
{
    start(DISK_CACHE_WRITEBACK, false, 0);
    cr_assert_eq(ftruncate(f.file.fd, 4096), 0);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 8192), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 100, 0, 512), VIRTIO_BLK_S_IOERR);
    fixture_end(&f);
}

Test(virtio_block, answers_what_makes_no_sense)
{
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t out, in;
        uint8_t status;
    } cases[] = {
        {VIRTIO_BLK_T_IN, DISK_SIZE / 512, 0, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, 0, 1024, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, UINT64_MAX, 0, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, UINT64_MAX / 512, 0, 1024, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, (uint64_t)1 << 55, 0, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 0, 511, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 512, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 512, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 0, 0, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_OUT, (uint64_t)1 << 55, 512, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, DISK_SIZE / 512, 512, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, 0, 513, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, 0, 512, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, 0, 0, 512, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, 0, 0, 0, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_SCSI_CMD, 0, 0, 0, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_SECURE_ERASE, 0, 16, 0, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_BARRIER, 0, 512, 0, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_DISCARD, 0, 0, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_DISCARD, 0, 15, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_DISCARD, 0, 17, 0, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, 16 * 17, 0, VIRTIO_BLK_S_IOERR},
    };
    start(DISK_CACHE_WRITEBACK, false, BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES));
    fill_disk();
    memset(out_data(), 0, 1024);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(request(cases[i].type, cases[i].sector, cases[i].out, cases[i].in), cases[i].status,
                     "case %u", i);
    set_header(VIRTIO_BLK_T_IN, 0);
    cr_assert_eq(carry_out(&(struct layout){.out = {HEADER - 1}, .in = {513}}), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(carry_out(&(struct layout){.in = {513}}), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(empty_blocks(), 0);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
    fixture_end(&f);
}

Test(virtio_block, answers_ranges_that_make_no_sense)
{
    static const struct {
        uint64_t sector;
        uint32_t sectors, flags;
        uint8_t discard, write_zeroes;
    } cases[] = {
        {0, 1, 2, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_UNSUPP},
        {0, 0, 1, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_OK},
        {0, 0, 0, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK},
        {0, UINT32_MAX, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, 1, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {(uint64_t)1 << 55, 8, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {DISK_SIZE / 512, 1, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {DISK_SIZE / 512 - 1, 2, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {1, 1u << 31, 0x80000000, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_UNSUPP},
    };
    start(DISK_CACHE_WRITEBACK, false, BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES));
    fill_disk();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        set_range(0, cases[i].sector, cases[i].sectors, cases[i].flags);
        cr_assert_eq(request(VIRTIO_BLK_T_DISCARD, 0, 16, 0), cases[i].discard, "case %u", i);
        cr_assert_eq(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0), cases[i].write_zeroes, "case %u", i);
    }
    cr_assert_eq(empty_blocks(), 0);
    fixture_end(&f);
}

Test(virtio_block, gives_back_what_has_no_room_for_an_answer)
{
    start(DISK_CACHE_WRITEBACK, false, 0);
    struct queue_driver_buffer header = {OUT, HEADER, false};
    uint32_t written;
    set_header(VIRTIO_BLK_T_IN, 0);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert(mmio_guest_offer(&f.guest, 0, 3, &header, 1, false));
        cr_assert_eq(wait_for_chain(&f, 0, &written), 3);
        cr_assert_eq(written, 0);
    }
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
    fixture_end(&f);
}

Test(virtio_block, breaks_alone_and_works_again_after_a_reset)
{
    start(DISK_CACHE_WRITEBACK, false, 0);
    struct queue_driver_buffer nowhere[] = {{OUT, HEADER, false}, {0xE0000000, 512, true}};
    cr_assert(mmio_guest_offer(&f.guest, 1, 1, nowhere, 2, false));
    while (!(mmio_guest_get(&f.guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET))
        wait_for_interrupt(&f);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
    mmio_guest_reset(&f.guest);
    mmio_guest_start(&f.guest, 0);
    cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
    fixture_end(&f);
}
