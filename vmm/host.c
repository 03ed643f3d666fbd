#include "vmm/host.h"

#include <errno.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/cli.h"
#include "vmm/dirty_log.h"
#include "vmm/exit_status.h"
#include "vmm/kvm.h"
#include "vmm/kvm_caps.h"
#include "vmm/x86/host_cpu.h"

#define PVM_MODULE "/sys/module/kvm_pvm"

/* What was found out; `kvm_fd` is negative where KVM cannot be opened. */
struct host {
    int kvm_fd;
    bool hardware;
    bool usable;
    struct error err; /* why it is not */
};

/* Something that a capability's value tells: a number of units, or, with a mask, yes or no. */
struct fact {
    const char *key;
    int capability;
    int mask;
    int unit;
};

static const struct fact dirty_log_facts[] = {
    {"get", KVM_CAP_USER_MEMORY, 1, 1},
    {"manual-protect", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, 1},
    {"initially-all-set", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, 1},
    {"ring-entries", KVM_CAP_DIRTY_LOG_RING, 0, sizeof(struct kvm_dirty_gfn)},
    {"ring-with-bitmap", KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 1, 1},
    {.key = NULL},
};

static const struct fact limit_facts[] = {
    {"vcpus", KVM_CAP_MAX_VCPUS, 0, 1},
    {"vcpus-recommended", KVM_CAP_NR_VCPUS, 0, 1},
    {"memory-slots", KVM_CAP_NR_MEMSLOTS, 0, 1},
    {"interrupt-routes", KVM_CAP_IRQ_ROUTING, 0, 1},
    {"ioeventfd-any-length", KVM_CAP_IOEVENTFD_ANY_LENGTH, 1, 1},
    {"tsc-control", KVM_CAP_TSC_CONTROL, 1, 1},
    {.key = NULL},
};

bool host_kvm_is_hardware(void)
{
    return host_cpu_has_virtualization() && access(PVM_MODULE, F_OK) != 0;
}

static void look(struct host *host)
{
    host->hardware = host_kvm_is_hardware();
    host->kvm_fd = kvm_open(&host->err);
    host->usable = host->kvm_fd >= 0 && kvm_check_required(host->kvm_fd, &host->err) == 0;
}

static int value(const struct host *host, int capability)
{
    return host->kvm_fd < 0 ? 0 : kvm_capability_value(host->kvm_fd, capability);
}

static int fact_value(const struct host *host, const struct fact *fact)
{
    int found = value(host, fact->capability);
    return fact->mask ? (found & fact->mask) != 0 : found / fact->unit;
}

static void print_row(const char *key, int number, bool is_flag)
{
    if (is_flag)
        printf("  %-22s %s\n", key, number ? "yes" : "no");
    else
        printf("  %-22s %d\n", key, number);
}

static void print_facts(const struct host *host, const struct fact *facts)
{
    for (const struct fact *fact = facts; fact->key; fact++)
        print_row(fact->key, fact_value(host, fact), fact->mask != 0);
}

static bool has_mode(const struct host *host, enum kvm_dirty_mode mode)
{
    return host->kvm_fd >= 0 && dirty_log_has_mode(host->kvm_fd, mode);
}

static void print_modes(const struct host *host)
{
    printf("  %-22s", "modes");
    for (enum kvm_dirty_mode mode = KVM_DIRTY_GET; mode <= KVM_DIRTY_RING; mode++) {
        if (has_mode(host, mode))
            printf(" %s", dirty_log_mode_name(mode));
    }
    printf("\n  %-22s %s\n", "default", dirty_log_mode_name(dirty_log_default(host->kvm_fd)));
}

static void print_capabilities(const struct host *host)
{
    for (size_t i = 0; i < kvm_capability_count; i++) {
        const struct kvm_capability *capability = &kvm_capabilities[i];
        printf("  %-36s %-9s %s\n", capability->name,
               value(host, capability->number) ? "yes"
               : capability->required          ? "MISSING"
                                               : "no",
               capability->purpose);
    }
}

static void print_table(const struct host *host)
{
    printf("KVM       %s, API version %d\n", host->usable ? "usable" : "not usable",
           ioctl(host->kvm_fd, KVM_GET_API_VERSION, 0));
    printf("Kind      %s\n\n", host->hardware
                                   ? "hardware: runs any guest"
                                   : "software (PVM): runs guests that do their work in user mode, "
                                     "but not Linux");
    printf("Capabilities that godwit uses:\n");
    print_capabilities(host);
    printf("\nDirty log:\n");
    print_modes(host);
    print_facts(host, dirty_log_facts);
    printf("\nLimits:\n");
    print_facts(host, limit_facts);
    print_row("address-bits", (int)host_cpu_address_bits(), false);
}

static json_t *facts_json(const struct host *host, const struct fact *facts)
{
    json_t *object = json_object();
    for (const struct fact *fact = facts; fact->key; fact++) {
        int number = fact_value(host, fact);
        json_object_set_new(object, fact->key, fact->mask ? json_boolean(number) : json_integer(number));
    }
    return object;
}

/* Without a KVM there are no modes and no default. */
static json_t *dirty_log_json(const struct host *host)
{
    json_t *object = facts_json(host, dirty_log_facts), *modes = json_array();
    for (enum kvm_dirty_mode mode = KVM_DIRTY_GET; mode <= KVM_DIRTY_RING; mode++) {
        if (has_mode(host, mode))
            json_array_append_new(modes, json_string(dirty_log_mode_name(mode)));
    }
    json_object_set_new(object, "modes", modes);
    if (host->kvm_fd >= 0)
        json_object_set_new(object, "default",
                            json_string(dirty_log_mode_name(dirty_log_default(host->kvm_fd))));
    return object;
}

static json_t *capabilities_json(const struct host *host)
{
    json_t *object = json_object();
    for (size_t i = 0; i < kvm_capability_count; i++) {
        const struct kvm_capability *capability = &kvm_capabilities[i];
        json_object_set_new(object, capability->name,
                            json_pack("{s:i, s:b, s:s}", "value", value(host, capability->number), "required",
                                      capability->required, "purpose", capability->purpose));
    }
    return object;
}

/* "error" is there only where KVM is not usable, "api-version" only where it can be opened. */
static void print_json(const struct host *host)
{
    json_t *limits = facts_json(host, limit_facts);
    json_object_set_new(limits, "address-bits", json_integer(host_cpu_address_bits()));
    json_t *report = json_pack("{s:b, s:s, s:o, s:o, s:o}", "usable", host->usable, "kind",
                               host->hardware ? "hardware" : "software", "capabilities",
                               capabilities_json(host), "dirty-log", dirty_log_json(host), "limits", limits);
    if (host->kvm_fd >= 0)
        json_object_set_new(report, "api-version", json_integer(ioctl(host->kvm_fd, KVM_GET_API_VERSION, 0)));
    if (!host->usable)
        json_object_set_new(report, "error", json_string(host->err.message));
    json_dumpf(report, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(report);
}

static int report(bool json)
{
    struct host host = {0};
    look(&host);
    if (json)
        print_json(&host);
    else if (host.kvm_fd >= 0)
        print_table(&host);
    if (host.kvm_fd >= 0)
        close(host.kvm_fd);
    int status = cli_end_output();
    if (!host.usable && !json)
        log_write(&cli_log, LOG_ERROR, "%s", host.err.message);
    return host.usable ? status : EXIT_STATUS_FAILED;
}

static void usage(FILE *out)
{
    fputs("Usage: godwit host [--json]\n"
          "\n"
          "Reports what this host's KVM can do: which capabilities that godwit uses are\n"
          "there, whether KVM works with virtualization hardware, how it logs dirty pages,\n"
          "and its limits.\n"
          "\n"
          "Options:\n"
          "  --json  print one JSON object, for programs\n"
          "  --help  print this help\n"
          "\n"
          "Exit status: 0 godwit can run guests here; 1 it cannot; 2 a wrong command line.\n"
          "\n"
          "Examples:\n"
          "  godwit host\n"
          "  godwit host --json | jq -r .kind\n",
          out);
}

int host_main(int argc, char *const argv[])
{
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_print(usage);
        if (strcmp(argv[i], "--json") != 0) {
            log_write(&cli_log, LOG_ERROR,
                      "unknown option '%.80s' of 'godwit host'; see 'godwit host --help'", argv[i]);
            return EXIT_STATUS_USAGE;
        }
        json = true;
    }
    return report(json);
}
