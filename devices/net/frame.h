/*
 * Frames for backends whose peer knows nothing of the header that each frame begins with.
 */
#pragma once

#include "devices/net/net_backend.h"

/*
 * The pieces of a frame behind its header, in `out`, which has room for frame->iov_count; returns how many.
 * With `clear`, the header is zeroed. A frame that is shorter has none.
 */
unsigned net_frame_body(const struct net_frame *frame, struct iovec *out, bool clear);
