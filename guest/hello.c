// hello: prints a line and ends.
#include "lib/boot.h"
#include "lib/console.h"

int main(void)
{
    print("hello: entered by %s\n", boot_entry());
    return 0;
}
