#include "vmm/backends.h"

#include "base/error.h"
#include "base/macros.h"
#include "devices/block/disk.h"

int backends_open(struct backends *backends, const struct config *config, struct error *err)
{
    int result = 0;
    for (unsigned i = 0; i < config->disk_count && result == 0; i++) {
        const struct config_disk *disk = &config->disks[i];
        const struct disk_config image = {disk->path, disk->readonly, disk->cache, config_looks_only(config)};
        result = error_prefix(err, disk_open(&image, &backends->disks[i], err), "--disk");
    }
    return result;
}

void backends_close(struct backends *backends)
{
    for (unsigned i = 0; i < ARRAY_SIZE(backends->disks); i++) {
        disk_close(backends->disks[i]);
        backends->disks[i] = NULL;
    }
}
