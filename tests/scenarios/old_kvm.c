/*
 * A preloaded library that makes KVM older than it is: OLD_KVM_VERSION=N is the version of the API,
 * OLD_KVM_LACKS=N the capability that there is not.
 */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>

static int number(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : -1;
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    unsigned long argument = va_arg(arguments, unsigned long);
    va_end(arguments);
    if (request == KVM_GET_API_VERSION && number("OLD_KVM_VERSION") >= 0)
        return number("OLD_KVM_VERSION");
    if (request == KVM_CHECK_EXTENSION && (int)argument == number("OLD_KVM_LACKS"))
        return 0;
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return next(fd, request, argument);
}
