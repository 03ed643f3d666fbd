#include "tests/unit/memory/fixture.h"

#include "memory/guest_copy.h"

static struct fixture f;
static char *host;

static void start(void)
{
    fixture_start(&f);
    host = f.block->host;
    for (unsigned i = 0; i < BLOCK; i++)
        host[i] = (char)(i * 7 + i / 256);
}

static void end(void)
{
    fixture_end(&f);
}

TestSuite(access, .init = start, .fini = end);

Test(access, ram_is_copied_both_ways)
{
    add(&f.root, 0x10000, ram(&f, "ram", 2 * PAGE), 0);
    char data[PAGE];
    cr_assert_eq(address_space_read(f.space, 0x10801, data, PAGE), 0);
    cr_assert_arr_eq(data, host + 0x801, PAGE);
    memset(data, 0x5a, 13);
    cr_assert_eq(address_space_write(f.space, 0x10ffb, data, 13), 0);
    cr_assert_arr_eq(host + 0xffb, data, 13);
    cr_assert_eq(host[0xffa], (char)(0xffa * 7 + 0xf));
}

Test(access, nothing_there_reads_as_ones)
{
    uint32_t data = 0;
    cr_assert_eq(address_space_read(f.space, 0x1234, &data, 4), -ENXIO);
    cr_assert_eq(data, UINT32_MAX);
    cr_assert_eq(address_space_write(f.space, 0x1234, &data, 4), -ENXIO);
}

Test(access, of_no_length_does_nothing)
{
    cr_assert_eq(address_space_read(f.space, 0, NULL, 0), 0);
    cr_assert_eq(address_space_write(f.space, UINT64_MAX, NULL, 0), 0);
}

Test(access, part_that_nothing_answers_for)
{
    add(&f.root, 0, ram(&f, "ram", PAGE), 0);
    add(&f.root, PAGE + 4, mmio(&f, "mmio", 4), 0);
    uint8_t data[12], wanted[12];
    memcpy(wanted, host + PAGE - 2, 2);
    memset(wanted + 2, 0xff, 4);
    memcpy(wanted + 6, (uint8_t[]){0x11, 0x22, 0x33, 0x44}, 4);
    memset(wanted + 10, 0xff, 2);
    cr_assert_eq(address_space_read(f.space, PAGE - 2, data, 12), -ENXIO);
    cr_assert_arr_eq(data, wanted, 12);
    memset(data, 0xee, 12);
    cr_assert_eq(address_space_write(f.space, PAGE - 2, data, 12), -ENXIO);
    cr_assert_eq(host[PAGE - 1], (char)0xee, "the rest takes place all the same");
}

Test(access, passes_over_the_end_of_the_space)
{
    add(&f.root, UINT64_MAX - 7, mmio(&f, "last", 8), 0);
    uint8_t data[16] = {0};
    cr_assert_eq(address_space_read(f.space, UINT64_MAX - 3, data, 8), -ENXIO);
    cr_assert_arr_eq(data, ((uint8_t[]){0x55, 0x66, 0x77, 0x88, 0xff, 0xff, 0xff, 0xff}), 8);
}

Test(access, rom_is_read_and_not_written)
{
    add(&f.root, 0, rom(&f, "rom", PAGE), 0);
    char data = 0, before = host[5];
    cr_assert_eq(address_space_read(f.space, 5, &data, 1), 0);
    cr_assert_eq(data, before);
    data = (char)~before;
    cr_assert_eq(address_space_write(f.space, 5, &data, 1), -EACCES);
    cr_assert_eq(host[5], before);
}

Test(access, readonly_alias_protects_ram_and_mmio)
{
    struct memory_region *ram_window = alias(&f, "a", ram(&f, "ram", PAGE), 0, PAGE);
    struct memory_region *mmio_window = alias(&f, "b", mmio(&f, "mmio", PAGE), 0, PAGE);
    add(&f.root, 0, ram_window, 0);
    add(&f.root, PAGE, mmio_window, 0);
    memory_region_set_readonly(ram_window, true, NULL);
    memory_region_set_readonly(mmio_window, true, NULL);
    char data = 0x77, before = host[0];
    cr_assert_eq(address_space_write(f.space, 0, &data, 1), -EACCES);
    cr_assert_eq(host[0], before);
    cr_assert_eq(address_space_write(f.space, PAGE, &data, 1), -EACCES);
    cr_assert_eq(address_space_read(f.space, PAGE, &data, 1), 0);
    cr_assert_eq(data, 0x11);
}

Test(access, rom_device_reads_ram_in_romd_mode_only)
{
    struct memory_region *device = rom_device(&f, "device", PAGE);
    add(&f.root, 0, device, 0);
    uint8_t data = 0;
    cr_assert_eq(address_space_read(f.space, 1, &data, 1), 0);
    cr_assert_eq(data, (uint8_t)host[1]);
    cr_assert_eq(address_space_write(f.space, 1, &data, 1), 0, "its ops take the write");
    memory_region_set_romd(device, false, NULL);
    cr_assert_eq(address_space_read(f.space, 1, &data, 1), 0);
    cr_assert_eq(data, 0x22);
}

Test(access, reservation_is_served_by_nobody_here)
{
    add(&f.root, 0, reservation(&f, "lapic", PAGE), 0);
    uint32_t data = 0;
    cr_assert_eq(address_space_read(f.space, 0, &data, 4), -ENXIO);
    cr_assert_eq(data, UINT32_MAX);
}

Test(access, goes_to_the_place_in_the_region_that_is_shown)
{
    add(&f.root, 0x1000, alias(&f, "alias", mmio(&f, "mmio", 0x100), 2, 0x10), 0);
    uint8_t data = 0;
    cr_assert_eq(address_space_read(f.space, 0x1001, &data, 1), 0);
    cr_assert_eq(data, 0x44, "offset 3");
}

/* A device that, when written, changes the tree and accesses another device, from within the access. */
struct nested {
    struct fixture *fixture;
    struct memory_region *moved;
    unsigned depth;
};

static void nested_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct nested *self = opaque;
    uint8_t byte = 0;
    cr_assert_eq(address_space_read(self->fixture->space, 0x2000, &byte, 1), 0);
    cr_assert_eq(byte, 0x11);
    cr_assert_eq(memory_region_set_address(self->moved, 0x3000, NULL), 0);
    cr_assert_eq(address_space_read(self->fixture->space, 0x3000, &byte, 1), 0);
    if (self->depth++ < 3)
        cr_assert_eq(address_space_write(self->fixture->space, 0x1000, &byte, 1), -ENXIO);
    cr_assert_eq(memory_region_set_address(self->moved, 0x2000, NULL), 0);
}

Test(access, callback_may_access_and_commit)
{
    static const struct memory_region_ops nested_ops = {.write = nested_write};
    struct nested nested = {&f, mmio(&f, "moved", 0x10), 3};
    struct memory_region device;
    cr_assert_eq(memory_region_init_mmio(&device, f.memory, "nested", &nested_ops, &nested, 1, NULL), 0);
    add(&f.root, 0x2000, nested.moved, 0);
    add(&f.root, 0x1000, &device, 0);
    cr_assert_eq(address_space_write(f.space, 0x1000, &(char){0}, 1), 0);
    cr_assert_eq(memory_region_remove_subregion(&device, NULL), 0);
    memory_synchronize(f.memory);
    memory_region_destroy(&device);
}

Test(guest_map, joins_neighbours_in_host_memory)
{
    struct memory_region *target = ram(&f, "ram", 8 * PAGE);
    add(&f.root, 0, alias(&f, "a", target, 0, 2 * PAGE), 0);
    add(&f.root, 2 * PAGE, alias(&f, "b", target, 2 * PAGE, PAGE), 0);
    add(&f.root, 3 * PAGE, alias(&f, "c", target, 5 * PAGE, PAGE), 0);
    struct memory_region *readonly = alias(&f, "d", target, 6 * PAGE, PAGE);
    add(&f.root, 4 * PAGE, readonly, 0);
    memory_region_set_readonly(readonly, true, NULL);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0x10, 5 * PAGE - 0x20, false, &mapping), 0);
    cr_assert_eq(mapping.count, 2);
    cr_assert_eq(mapping.iov[0].iov_base, host + 0x10);
    cr_assert_eq(mapping.iov[0].iov_len, 3 * PAGE - 0x10);
    cr_assert_eq(mapping.iov[1].iov_base, host + 5 * PAGE);
    cr_assert_eq(mapping.iov[1].iov_len, 2 * PAGE - 0x10);
    guest_unmap(&mapping, 0);
    cr_assert_eq(guest_map(f.space, 0x10, 5 * PAGE - 0x20, true, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, 0, 4 * PAGE, true, &mapping), 0);
    guest_unmap(&mapping, 4 * PAGE);
}

TestSuite(guest_map, .init = start, .fini = end);

Test(guest_map, maps_host_memory_only)
{
    struct memory_region *device = rom_device(&f, "device", PAGE);
    add(&f.root, 0, ram(&f, "ram", PAGE), 0);
    add(&f.root, PAGE, mmio(&f, "mmio", PAGE), 0);
    add(&f.root, 2 * PAGE, device, 0);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0, PAGE + 1, false, &mapping), -EFAULT);
    cr_assert_eq(mapping.count, 0);
    cr_assert_eq(guest_map(f.space, PAGE, 1, false, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, 3 * PAGE, 1, false, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, 2 * PAGE, 1, false, &mapping), 0);
    guest_unmap(&mapping, 0);
    cr_assert_eq(guest_map(f.space, 2 * PAGE, 1, true, &mapping), -EFAULT);
    memory_region_set_romd(device, false, NULL);
    cr_assert_eq(guest_map(f.space, 2 * PAGE, 1, false, &mapping), -EFAULT);
}

Test(guest_map, of_no_length_is_empty)
{
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0x123456, 0, true, &mapping), 0);
    cr_assert_eq(mapping.count, 0);
    guest_unmap(&mapping, 0);
}

Test(guest_map, does_not_wrap)
{
    struct guest_mapping mapping;
    add(&f.root, 0, ram(&f, "low", PAGE), 0);
    add(&f.root, UINT64_MAX - PAGE + 1, ram(&f, "high", PAGE), 0);
    cr_assert_eq(guest_map(f.space, UINT64_MAX, 2, false, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, UINT64_MAX - 1, 2, false, &mapping), 0);
    guest_unmap(&mapping, 0);
    cr_assert_eq(guest_map(f.space, 0, UINT64_MAX, false, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, 1, UINT64_MAX, false, &mapping), -EFAULT);
}

Test(guest_map, has_a_limit_of_pieces)
{
    struct memory_region *target = ram(&f, "ram", PAGE);
    for (unsigned i = 0; i <= GUEST_MAPPING_MAX; i++)
        add(&f.root, i * PAGE, alias(&f, "piece", target, 0, PAGE), 0);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0, (GUEST_MAPPING_MAX + 1) * PAGE, false, &mapping), -EFAULT);
    cr_assert_eq(guest_map(f.space, 0, GUEST_MAPPING_MAX * PAGE, false, &mapping), 0);
    cr_assert_eq(mapping.count, GUEST_MAPPING_MAX);
    guest_unmap(&mapping, 0);
}

Test(guest_map, keeps_its_view_through_a_commit)
{
    struct memory_region *region = ram(&f, "ram", PAGE);
    add(&f.root, 0, region, 0);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0, PAGE, true, &mapping), 0);
    struct flat_view *view = mapping.view;
    cr_assert_eq(memory_region_remove_subregion(region, NULL), 0);
    cr_assert_str_eq(show(&f, view), "0+1000 ram@0");
    guest_unmap(&mapping, PAGE);
    assert_shows(&f, "");
}

Test(guest_map, through_a_view_that_is_held)
{
    struct memory_region *region = ram(&f, "ram", 2 * PAGE);
    add(&f.root, 0, alias(&f, "b", region, PAGE, PAGE), 0);
    add(&f.root, PAGE, alias(&f, "a", region, 0, PAGE), 0);
    struct flat_view *view = flat_view_get(f.space);
    struct iovec iov[2];
    cr_assert_eq(flat_view_map(view, 8, PAGE, true, iov, 1), -ENOSPC);
    cr_assert_eq(flat_view_map(view, 8, PAGE, true, iov, 2), 2);
    cr_assert(iov[0].iov_base == host + PAGE + 8 && iov[0].iov_len == PAGE - 8);
    cr_assert(iov[1].iov_base == host && iov[1].iov_len == 8);
    cr_assert_eq(flat_view_map(view, 8, 2 * PAGE, true, iov, 2), -EFAULT);
    cr_assert_eq(flat_view_map(view, UINT64_MAX, 2, true, iov, 2), -EFAULT);
    cr_assert_eq(flat_view_map(view, UINT64_MAX, 0, true, iov, 0), 0);
    flat_view_put(view);
}

Test(guest_map, knows_whether_a_view_is_current)
{
    struct memory_region *region = ram(&f, "ram", PAGE);
    add(&f.root, 0, region, 0);
    struct flat_view *view = flat_view_get(f.space);
    cr_assert(flat_view_is_current(view));
    cr_assert_eq(memory_region_set_enabled(region, false, NULL), 0);
    cr_assert(!flat_view_is_current(view));
    cr_assert_eq(memory_region_set_enabled(region, true, NULL), 0);
    cr_assert(!flat_view_is_current(view), "another that shows the same");
    flat_view_put(view);
}

Test(guest_copy, every_alignment_and_size)
{
    _Alignas(16) unsigned char guest[64], to[64];
    for (size_t offset = 0; offset < 9; offset++) {
        for (size_t size = 0; size < 40; size++) {
            for (size_t i = 0; i < sizeof(guest); i++)
                guest[i] = (unsigned char)i;
            memset(to, 0xcc, sizeof(to));
            guest_copy_from(to + 3, guest + offset, size);
            cr_assert_arr_eq(to + 3, guest + offset, size);
            cr_assert_eq(to[2], 0xcc);
            cr_assert_eq(to[3 + size], 0xcc);
            memset(guest, 0xcc, sizeof(guest));
            guest_copy_to(guest + offset, to + 3, size);
            cr_assert_arr_eq(guest + offset, to + 3, size);
            cr_assert_eq(guest[offset + size], 0xcc);
            cr_assert(offset == 0 || guest[offset - 1] == 0xcc);
        }
    }
}
