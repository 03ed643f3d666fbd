/*
 * tap-frames: what a plain process does with a tap interface. `write NAME SIZE MS` and `read NAME MS` do what
 * a VMM does for a guest, one system call a frame, and print how many there were and in how many nanoseconds;
 * `send NAME SIZE` gives the interface frames to bring, until it is killed.
 */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEADER    12 /* of virtio, as a VMM has it in front of each frame */
#define FRAME_MAX 1514
#define BATCH     64

static const unsigned char frame_start[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static int open_tap(const char *name, int flags)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | flags);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &(int){HEADER}) < 0)
        err(1, "%s", name);
    return fd;
}

static void move(const char *name, size_t size, uint64_t milliseconds)
{
    static unsigned char buffer[HEADER + FRAME_MAX];
    int fd = open_tap(name, O_NONBLOCK);
    uint64_t frames = 0, start = now(), end = start + milliseconds * 1000000;
    memcpy(buffer + HEADER, frame_start, sizeof(frame_start));
    while (now() < end) {
        ssize_t moved = size ? write(fd, buffer, HEADER + size) : read(fd, buffer, sizeof(buffer));
        frames += moved > 0;
    }
    printf("frames %llu ns %llu\n", (unsigned long long)frames, (unsigned long long)(now() - start));
}

static void send_forever(const char *name, size_t size)
{
    static unsigned char frame[FRAME_MAX];
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
    struct iovec iov = {frame, size};
    struct mmsghdr messages[BATCH];
    memcpy(frame, frame_start, sizeof(frame_start));
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(1, "%s", name);
    for (unsigned i = 0; i < BATCH; i++)
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    for (;;)
        if (sendmmsg(fd, messages, BATCH, 0) < BATCH)
            usleep(20); /* the interface's queue is full, or it is not up yet */
}

int main(int argc, char **argv)
{
    size_t size = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (argc == 5 && !strcmp(argv[1], "write") && size >= sizeof(frame_start) && size <= FRAME_MAX)
        move(argv[2], size, strtoul(argv[4], NULL, 10));
    else if (argc == 4 && !strcmp(argv[1], "read"))
        move(argv[2], 0, size);
    else if (argc == 4 && !strcmp(argv[1], "send") && size >= sizeof(frame_start) && size <= FRAME_MAX)
        send_forever(argv[2], size);
    else
        errx(2, "usage: tap-frames write NAME SIZE MS | read NAME MS | send NAME SIZE");
    return 0;
}
