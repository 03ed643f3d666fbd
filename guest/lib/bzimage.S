/*
 * A bzImage: a boot sector and a setup sector with the setup header of the Linux boot protocol 2.15, then the
 * protected-mode part, a flat binary whose 64-bit entry is at 0x200. If PAYLOAD names a file, that file (a compressed
 * ELF) lies behind it, with the size of the ELF itself in the last 4 bytes.
 */
    .section .bzimage, "a"
boot_sector:
    .fill 0x1f1, 1, 0
    .byte 1                             /* setup_sects */
    .word 1                             /* root_flags */
    .long (image_end - image) / 16      /* syssize */
    .word 0                             /* ram_size */
    .word 0xffff                        /* vid_mode */
    .word 0                             /* root_dev */
    .word 0xaa55                        /* boot_flag */
    .byte 0xeb, header_end - 1f         /* jump */
1:  .ascii "HdrS"                       /* header */
    .word 0x020f                        /* version */
    .long 0                             /* realmode_swtch */
    .word 0x1000                        /* start_sys_seg */
    .word kernel_version - 1b + 2       /* kernel_version, counted from 0x200 */
    .byte 0                             /* type_of_loader */
    .byte 1                             /* loadflags: LOADED_HIGH */
    .word 0x8000                        /* setup_move_size */
    .long IMAGE_BASE                    /* code32_start */
    .long 0, 0                          /* ramdisk_image, ramdisk_size */
    .long 0                             /* bootsect_kludge */
    .word 0xfe00                        /* heap_end_ptr */
    .byte 0, 0                          /* ext_loader_ver, ext_loader_type */
    .long 0                             /* cmd_line_ptr */
    .long 0xffffffff                    /* initrd_addr_max */
    .long 0x200000                      /* kernel_alignment */
    .byte 0                             /* relocatable_kernel */
    .byte 21                            /* min_alignment */
    .word 1                             /* xloadflags: XLF_KERNEL_64 */
    .long 2047                          /* cmdline_size */
    .long 0                             /* hardware_subarch */
    .quad 0                             /* hardware_subarch_data */
    .long payload - image               /* payload_offset */
    .long payload_end - payload         /* payload_length */
    .quad 0                             /* setup_data */
    .quad IMAGE_BASE                    /* pref_address */
    .long MEMORY_SIZE                   /* init_size */
    .long 0                             /* handover_offset */
    .long 0                             /* kernel_info_offset */
header_end:
    hlt
    jmp header_end
kernel_version:
    .asciz "godwit guest"
    .org 0x400
image:
    .incbin FLAT
    .balign 16
payload:
#ifdef PAYLOAD
    .incbin PAYLOAD
#ifdef PAYLOAD_SIZE_APPENDED
    .long elf_end - elf
#endif
#endif
payload_end:
    .balign 16
image_end:

#ifdef PAYLOAD_SIZE_APPENDED
    .section .measure, ""
elf:
    .incbin ELF
elf_end:
#endif
