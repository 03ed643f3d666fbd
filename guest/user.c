/* user: works in user mode. Fills memory with the text of seq(1) and prints its checksum as cksum(1) does. */
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/checksum.h"
#include "guest/lib/console.h"
#include "guest/lib/memory.h"
#include "guest/lib/sequence.h"

static unsigned current_privilege_level(void)
{
    uint16_t cs;

    __asm__("mov %%cs, %0" : "=r"(cs));
    return cs & 3;
}

static void round_of_work(void *area, uint64_t size)
{
    static struct checksum sum;
    struct sequence text;

    sequence_begin(&text, 1);
    sequence_read(&text, area, size);
    checksum_begin(&sum);
    checksum_add(&sum, area, size);
    print("user: cksum %u %lu\n", checksum_end(&sum), sum.length);
}

int main(void)
{
    uint64_t size = argument_number("bytes", 1 << 20);
    uint64_t rounds = argument_number("rounds", 1);
    void *area = memory_free(size);

    print("user: at CPL %u\n", current_privilege_level());
    for (uint64_t i = 0; i < rounds; i++)
        round_of_work(area, size);
    return 0;
}
