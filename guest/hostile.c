/*
 * hostile: attacks the first virtio disk with every malformed ring, request and register access that one can
 * think of, and looks after each whether the disk is as it must be, a reset brings it back, and the second
 * disk has gone on working.
 */
#include <libfdt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/hostile/midway.h"
#include "guest/hostile/mutate.h"
#include "guest/hostile/net.h"
#include "guest/hostile/pci.h"
#include "guest/hostile/target.h"
#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/memory.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

#define WRONG_MAX       5
#define WITNESS_SECTORS 8

struct flavour {
    const char *name, *key;
    uint64_t features;
};

static const struct flavour flavours[] = {
    {"split ring", "split", 0},
    {"split ring, event index, in order", "split-event", F_EVENT_IDX | F_IN_ORDER},
    {"packed ring", "packed", F_PACKED | F_IN_ORDER},
    {"packed ring, event index", "packed-event", F_PACKED | F_EVENT_IDX},
};

/* The attack under way, for what is wrong. */
static struct {
    const char *flavour, *name;
    uint64_t value;
    unsigned attacks, wrong;
} now;

static struct target target, witness;
static uint64_t witness_answers, witness_sector;
static unsigned witness_slot;

bool wrong(const char *format, ...)
{
    va_list args;

    now.wrong++;
    print("hostile: %s: %s %lu: ", now.flavour, now.name, now.value);
    va_start(args, format);
    print_list(format, args);
    va_end(args);
    print("\n");
    if (now.wrong == WRONG_MAX)
        guest_panic("too much is wrong");
    return false;
}

/* ---- The witness: each of its sectors is full of that sector's number ---- */

static void witness_ask(void)
{
    witness_sector = random_below(&witness, witness.sectors - WITNESS_SECTORS);
    memset(witness.memory->data, 0xff, WITNESS_SECTORS * SECTOR);
    witness_slot = target_request(&witness, REQUEST_READ, witness_sector, witness.memory->data,
                                  WITNESS_SECTORS * SECTOR);
    target_go(&witness);
}

static void witness_answer(void)
{
    const uint64_t *words = (const uint64_t *)witness.memory->data;

    if (!target_await(&witness, OK, witness_slot)) {
        wrong("that was the other disk");
        return;
    }
    witness_answers++;
    for (unsigned i = 0; i < WITNESS_SECTORS * SECTOR / sizeof(*words); i++) {
        if (words[i] != witness_sector + i * sizeof(*words) / SECTOR) {
            wrong("the other disk: sector %lu has %lx", witness_sector, words[i]);
            return;
        }
    }
}

/* ---- Attacks ---- */

static void recover(uint64_t features)
{
    if (!target_begin(&target, features) || !target_works(&target))
        wrong("the disk does not come back");
}

static void run_one(const struct attack *attack, uint64_t features)
{
    now.name = attack->name;
    now.attacks++;
    witness_ask();
    if (target_begin(&target, features & ~attack->without) && attack->run(&target, now.value) &&
        attack->outcome != DONE)
        target_await(&target, attack->outcome, (target.slot - 1) % SLOTS);
    if (target.device.pci)
        pci_restore(&target);
    recover(features);
    witness_answer();
}

static void run_all(const struct attack *attacks, uint64_t features)
{
    unsigned layout = features & F_PACKED ? PACKED : SPLIT;

    for (const struct attack *attack = attacks; attack->name; attack++) {
        if (attack->layouts && !(attack->layouts & layout))
            continue;
        for (now.value = 0; now.value < attack->values; now.value++)
            run_one(attack, features);
    }
}

static void run_mutations(uint64_t rounds, uint64_t features)
{
    now.name = "mutation";
    for (now.value = 0; now.value < rounds; now.value++) {
        now.attacks++;
        witness_ask();
        if (target_begin(&target, features))
            mutate(&target);
        recover(features);
        witness_answer();
    }
}

static void run_flavour(const struct flavour *flavour, uint64_t rounds)
{
    const uint64_t usual = F_INDIRECT | F_RING_RESET | F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES;
    uint64_t features = usual | flavour->features;
    unsigned before = now.attacks;

    now.flavour = flavour->name;
    if (!argument_is("only", "mutations", false)) {
        run_all(chain_attacks, features);
        run_all(table_attacks, features);
        run_all(set_up_attacks, features);
        run_all(midway_attacks, features);
        if (target.device.pci)
            run_all(pci_attacks, features);
    }
    run_mutations(rounds, features);
    print("hostile: %s: %u attacks\n", flavour->name, now.attacks - before);
}

static void run_network(uint64_t rounds)
{
    unsigned before = now.attacks;

    now.flavour = "network";
    now.name = "attack";
    for (now.value = 0; now.value < rounds; now.value++) {
        now.attacks++;
        witness_ask();
        net_attack();
        if (!net_works())
            wrong("the network device does not come back");
        witness_answer();
    }
    print("hostile: network: %u attacks\n", now.attacks - before);
}

static uint64_t ram_end(void)
{
    struct tree_range ram;

    if (!tree_range(fdt_path_offset(boot_tree(), "/memory@0"), 0, &ram))
        guest_panic("the device tree has no memory");
    return ram.start + ram.size;
}

static void find_disk(struct target *disk, unsigned index, struct target_memory *memory)
{
    if (!device_find(DEVICE_DISK, index, &disk->device))
        guest_panic("two disks are needed");
    disk->memory = memory;
    disk->random = argument_number("seed", 1) << 8 | 1;
    disk->ram_end = ram_end();
    disk->witness = &witness;
    disk->sectors = device_sectors(&disk->device);
    if (disk->sectors * SECTOR < DATA_SIZE / 2 || disk->sectors * SECTOR > DATA_SIZE)
        guest_panic("disks of half a MiB to one are needed");
}

int main(void)
{
    struct target_memory *memory = memory_free(5 * sizeof(*memory));
    uint64_t rounds = argument_number("rounds", 100);

    pic_mask();
    memset(memory, 0, 5 * sizeof(*memory));
    find_disk(&witness, 1, memory);
    find_disk(&target, 0, memory + 1);
    now.flavour = "the other disk";
    now.name = "start";
    if (target.device.pci)
        pci_save(&target);
    if (!target_begin(&witness, F_EVENT_IDX))
        return 1;
    print("hostile: seed %lu, %u cpus, %s\n", argument_number("seed", 1), midway_start_cpu(&target) ? 2 : 1,
          target.device.pci ? "pci" : "mmio");
    for (unsigned i = 0; i < sizeof(flavours) / sizeof(flavours[0]); i++) {
        if (!argument_is("only", "network", false) && argument_is("ring", flavours[i].key, true))
            run_flavour(&flavours[i], rounds);
    }
    if (net_find(&target, memory + 2))
        run_network(rounds);
    print("hostile: %u attacks, %u wrong; %lu answers by the other disk\n", now.attacks, now.wrong,
          witness_answers);
    return now.wrong ? 1 : 0;
}
