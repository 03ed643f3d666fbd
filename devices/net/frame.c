#include "devices/net/frame.h"

#include <string.h>

#include "base/macros.h"

unsigned net_frame_body(const struct net_frame *frame, struct iovec *out, bool clear)
{
    size_t header = NET_HEADER_SIZE;
    unsigned count = 0;
    for (unsigned i = 0; i < frame->iov_count; i++) {
        const struct iovec *piece = &frame->iov[i];
        size_t skip = smaller(header, piece->iov_len);
        if (clear && skip > 0)
            memset(piece->iov_base, 0, skip);
        header -= skip;
        if (skip < piece->iov_len)
            out[count++] = (struct iovec){(char *)piece->iov_base + skip, piece->iov_len - skip};
    }
    return count;
}
