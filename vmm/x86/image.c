#include "vmm/x86/image.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "vmm/x86/decompress.h"

static int read_file(const struct image *image, uint64_t offset, void *to, size_t length, struct error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(image->fd, (char *)to + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(err, errno, "cannot read it");
        if (got == 0)
            return error_set(err, EBADMSG, "it became shorter while it was read");
        done += (size_t)got;
    }
    return 0;
}

/* The next bytes of a payload. */
static int unpack(struct image *image, void *to, size_t length, struct error *err)
{
    size_t got;
    int result = decompressor_read(image->decompressor, to, length, &got, err);
    if (result)
        return result;
    image->position += got;
    if (got < length)
        return error_set(err, EBADMSG,
                         "the payload unpacks to %llu bytes, but says that it has %llu: get the file anew",
                         (unsigned long long)image->position, (unsigned long long)image->size);
    return 0;
}

static int skip_to(struct image *image, uint64_t offset, struct error *err)
{
    uint8_t scratch[16 * 1024];
    if (offset < image->position)
        return error_set(err, EINVAL,
                         "segments that share bytes of the file cannot be loaded from a payload");
    int result = 0;
    while (!result && image->position < offset) {
        uint64_t left = offset - image->position;
        result = unpack(image, scratch, left < sizeof(scratch) ? left : sizeof(scratch), err);
    }
    return result;
}

static int check_kind(mode_t mode, struct error *err)
{
    if (S_ISDIR(mode))
        return error_set(err, EISDIR, "is a directory: name the file in it");
    if (!S_ISREG(mode))
        return error_set(err, EINVAL, "is not a regular file: copy it into one");
    return 0;
}

/* Checks the opened file and reads its beginning. */
static int examine(struct image *image, struct error *err)
{
    struct stat status;
    if (fstat(image->fd, &status))
        return error_set_errno(err, errno, "cannot examine it");
    int result = check_kind(status.st_mode, err);
    if (result)
        return result;
    if (status.st_size == 0)
        return error_set(err, ENOEXEC, "is empty");
    image->size = (uint64_t)status.st_size;
    image->head_size = image->size < IMAGE_HEAD_SIZE ? image->size : IMAGE_HEAD_SIZE;
    return read_file(image, 0, image->head, image->head_size, err);
}

int image_open(struct image *image, const char *path, struct error *err)
{
    image->decompressor = NULL;
    /* O_NONBLOCK: opening a pipe that nobody writes to must not wait. */
    image->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (image->fd < 0)
        return error_set_errno(err, errno, "cannot open it");
    int result = examine(image, err);
    if (result)
        image_close(image);
    return result;
}

int image_open_payload(struct image *image, const struct image *file, uint64_t offset, uint64_t length,
                       struct error *err)
{
    uint8_t magic[COMPRESSION_MAGIC_SIZE];
    uint32_t size;
    if (length < sizeof(magic) + sizeof(size))
        return error_set(err, ENOTSUP, "the payload is too short to be a compressed kernel");
    int result = read_file(file, offset, magic, sizeof(magic), err);
    if (!result)
        result = read_file(file, offset + length - sizeof(size), &size, sizeof(size), err);
    if (result)
        return result;

    /* In gzip the size is part of the format; others do not expect it behind their data. */
    const char *name = compression_name(magic, sizeof(magic));
    bool inside = name && !strcmp(name, "gzip");
    *image = (struct image){.fd = -1, .size = le32toh(size)};
    result = decompressor_create(file->fd, offset, length - (inside ? 0 : sizeof(size)), &image->decompressor,
                                 err);
    if (result)
        return result;
    size_t head_size = image->size < IMAGE_HEAD_SIZE ? image->size : IMAGE_HEAD_SIZE;
    result = unpack(image, image->head, head_size, err);
    image->head_size = head_size;
    if (result)
        image_close(image);
    return result;
}

void image_close(struct image *image)
{
    decompressor_destroy(image->decompressor);
    if (image->fd >= 0)
        close(image->fd);
}

int image_read(struct image *image, uint64_t offset, void *to, uint64_t length, struct error *err)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, length, &end) || end > image->size)
        return error_set(
            err, EBADMSG,
            "it ends at byte 0x%llx, before the 0x%llx bytes at 0x%llx that it refers to: truncated",
            (unsigned long long)image->size, (unsigned long long)length, (unsigned long long)offset);
    if (!image->decompressor)
        return read_file(image, offset, to, length, err);

    if (offset < image->head_size) {
        uint64_t known = image->head_size - offset;
        known = known < length ? known : length;
        memcpy(to, image->head + offset, known);
        offset += known;
        to = (char *)to + known;
        length -= known;
    }
    if (length == 0)
        return 0;
    int result = skip_to(image, offset, err);
    return result ? result : unpack(image, to, length, err);
}

int image_load(struct image *image, uint64_t offset, uint64_t length, struct address_space *memory,
               uint64_t address, struct error *err)
{
    struct guest_mapping mapping;
    int result = guest_map(memory, address, length, true, &mapping);
    if (result)
        return error_set(err, -result, "guest memory at 0x%llx is not RAM as a whole",
                         (unsigned long long)address);
    for (unsigned i = 0; !result && i < mapping.count; i++) {
        result = image_read(image, offset, mapping.iov[i].iov_base, mapping.iov[i].iov_len, err);
        offset += mapping.iov[i].iov_len;
    }
    guest_unmap(&mapping, length);
    return result;
}

int image_finish(struct image *image, struct error *err)
{
    uint8_t more;
    size_t got = 0;
    if (!image->decompressor)
        return 0;
    int result = skip_to(image, image->size, err);
    if (!result)
        result = decompressor_read(image->decompressor, &more, sizeof(more), &got, err);
    if (!result && got)
        result = error_set(err, EBADMSG, "the payload unpacks to more than the %llu bytes it says: damaged",
                           (unsigned long long)image->size);
    return result;
}
