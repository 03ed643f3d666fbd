/* The configuration file: whatever its bytes, it is taken or refused, and what is taken is within its ranges.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/ram_block.h"
#include "vmm/config.h"
#include "vmm/config_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_net(const struct config_net *net)
{
    bool has_name = net->kind != CONFIG_NET_FDS;
    if (has_name != (net->name && *net->name) || net->queues < 1 || net->queues > NET_QUEUES_MAX ||
        (net->kind == CONFIG_NET_PASST && net->queues > 1) || (net->mtu && net->mtu < VIRTIO_NET_MTU_MIN) ||
        net->mac[0] & 1)
        abort();
}

static void check_disk(const struct config_disk *disk)
{
    if (!disk->path || !*disk->path || disk->queues < 1 || disk->queues > CONFIG_DISK_QUEUES_MAX ||
        disk->cache > DISK_CACHE_UNSAFE ||
        strnlen(disk->serial, sizeof(disk->serial)) == sizeof(disk->serial))
        abort();
}

static void check_accepted(const struct config *config)
{
    bool has_path = config->serial == SERIAL_FILE || config->serial == SERIAL_UNIX;
    if ((config->memory && (config->memory < CONFIG_MEMORY_MIN || config->memory > CONFIG_MEMORY_MAX ||
                            config->memory % RAM_PAGE_SIZE)) ||
        config->cpus > CONFIG_CPUS_MAX || config->exit_port < -1 || config->exit_port > 0xFFFF ||
        has_path != (config->serial_path != NULL) || config->disk_count > CONFIG_DISKS_MAX ||
        config->net_count > CONFIG_NETS_MAX || config->io_threads > CONFIG_IO_THREADS_MAX)
        abort();
    for (unsigned i = 0; i < config->disk_count; i++)
        check_disk(&config->disks[i]);
    for (unsigned i = 0; i < config->net_count; i++)
        check_net(&config->nets[i]);
}

/* A refusal names the file and a line that the file has. */
static void check_refused(int result, const char *message, const uint8_t *data, size_t size)
{
    static const char prefix[] = "folder/file:";
    unsigned long lines = 1;
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n';
    if (result != -EBADMSG || strncmp(message, prefix, strlen(prefix)) != 0)
        abort();
    char *end;
    unsigned long line = strtoul(message + strlen(prefix), &end, 10);
    if (*end != ':' || line < 1 || line > lines)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config = {.exit_port = -1};
    struct error err = {""};
    int result = config_file_parse(&config, "folder/file", (const char *)data, size, &err);
    if (result == 0)
        check_accepted(&config);
    else
        check_refused(result, err.message, data, size);
    config_free(&config);
    return 0;
}
