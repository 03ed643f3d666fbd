/* The ELF note that has an image entered by PVH: XEN_ELFNOTE_PHYS32_ENTRY. */
    .section .note.Xen, "a", @note
    .balign 4
    .long 4
    .long 4
    .long 18
    .asciz "Xen"
    .long entry_pvh
    .section .note.GNU-stack, "", @progbits
