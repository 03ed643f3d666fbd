/* Rings that are good but for a few words at random. */
#pragma once

struct target;

/* Hands over a few requests, changes a few words of what describes them, kicks, and stops the queue or not.
 */
void mutate(struct target *target);

/* Changes a few words of the ring, of tables and of headers. */
void spoil_ring(struct target *target);
