/* hello: prints a line and ends. */
#include "guest/lib/boot.h"
#include "guest/lib/console.h"

int main(void)
{
    print("hello: entered by %s\n", boot_entry());
    return 0;
}
