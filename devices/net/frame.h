/*
 * Frames for backends whose peer knows nothing of the header that each frame begins with.
 */
#pragma once

#include "devices/net/net_backend.h"

/*
 * The pieces of a frame behind its header, in `out`, which has room for frame->iov_count; returns how many: 0
 * if there is no more than the header, or less. With `clear`, the header is zeroed.
 */
unsigned net_frame_body(const struct net_frame *frame, struct iovec *out, bool clear);
