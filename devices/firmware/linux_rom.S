// An option ROM that starts a Linux kernel under a BIOS: it has the parts of the kernel that fw_cfg
// offers put where fw_cfg says, and jumps to the 16-bit entry point (Linux
// Documentation/arch/x86/boot.rst, "Running the Kernel"). A BIOS finds it by its signature and takes
// it for something to boot from by its Plug and Play header (Plug and Play BIOS Specification 1.0A,
// section 3, "Option ROM Support": a Bootstrap Entry Vector).
//
// linux_rom.cc fills in the two checksums.

#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DMA_HIGH 0x514
#define FW_CFG_DMA_LOW 0x518
#define DMA_SELECT_AND_READ 0x0a

// Keys of fw_cfg.h.
#define KERNEL_ADDRESS 0x07
#define KERNEL_BYTES 0x08
#define KERNEL 0x11
#define INITRD_ADDRESS 0x0a
#define INITRD_BYTES 0x0b
#define INITRD 0x12
#define COMMAND_LINE_ADDRESS 0x13
#define COMMAND_LINE_BYTES 0x14
#define COMMAND_LINE 0x15
#define SETUP_ADDRESS 0x16
#define SETUP_BYTES 0x17
#define SETUP 0x18

#define BLOCK_BYTES 512

    .section .rodata
    .balign 16
    .globl linux_rom_begin, linux_rom_end, linux_rom_checksum
    .globl linux_rom_header, linux_rom_header_end, linux_rom_header_checksum
    .code16

linux_rom_begin:
    .word 0xaa55
    .byte (linux_rom_end - linux_rom_begin) / BLOCK_BYTES
    // Where the BIOS calls to have devices set up; there is none.
    lret
    .org linux_rom_begin + 0x1a
    .word linux_rom_header - linux_rom_begin
linux_rom_checksum:
    .byte 0

    .balign 16
linux_rom_header:
    .ascii "$PnP"
    .byte 1                        // Version of the structure.
    .byte (linux_rom_header_end - linux_rom_header) / 16
    .word 0                        // There is no other one.
    .byte 0
linux_rom_header_checksum:
    .byte 0
    .long 0                        // Device identifier
    .word maker - linux_rom_begin
    .word product - linux_rom_begin
    .byte 0, 0, 0                  // Type of device
    .byte 0                        // Indicators
    .word 0                        // Boot Connection Vector
    .word 0                        // Disconnect Vector
    .word boot - linux_rom_begin   // Bootstrap Entry Vector
    .word 0
    .word 0                        // Static resources
linux_rom_header_end:

maker:
    .asciz "Vireo"
product:
    .asciz "Linux kernel"

boot:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ss
    movw $0x7c00, %sp

    movw $SETUP_ADDRESS, %bx
    movw $SETUP_BYTES, %cx
    movw $SETUP, %si
    call load
    movw $COMMAND_LINE_ADDRESS, %bx
    movw $COMMAND_LINE_BYTES, %cx
    movw $COMMAND_LINE, %si
    call load
    movw $KERNEL_ADDRESS, %bx
    movw $KERNEL_BYTES, %cx
    movw $KERNEL, %si
    call load
    movw $INITRD_ADDRESS, %bx
    movw $INITRD_BYTES, %cx
    movw $INITRD, %si
    call load

    // The kernel's segment is the setup's; its stack ends below the command line.
    movw $COMMAND_LINE_ADDRESS, %bx
    call number
    movl %eax, %edi
    movw $SETUP_ADDRESS, %bx
    call number
    subl %eax, %edi
    subl $16, %edi
    shrl $4, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl %edi, %esp
    addw $0x20, %ax
    pushw %ax
    pushw $0
    lret

// The item %bx, a number of 32 bits, in %eax. Changes %dx.
number:
    pushw %cx
    movw $FW_CFG_SELECTOR, %dx
    movw %bx, %ax
    outw %ax, %dx
    incw %dx
    movw $4, %cx
1:  inb %dx, %al
    rorl $8, %eax
    loop 1b
    popw %cx
    ret

// Has the item %si put at the address that item %bx holds, as many bytes of it as item %cx says.
load:
    call number
    movl %eax, %edi
    movw %cx, %bx
    call number
    testl %eax, %eax
    jz 2f
    // A request of fw_cfg, from its end to its start, all big-endian.
    bswapl %edi
    pushl %edi
    pushl $0
    bswapl %eax
    pushl %eax
    movzwl %si, %eax
    shll $16, %eax
    orl $DMA_SELECT_AND_READ, %eax
    bswapl %eax
    pushl %eax
    movw %sp, %bp                  // Which goes by %ss, 0.
    xorl %eax, %eax
    movw $FW_CFG_DMA_HIGH, %dx
    outl %eax, %dx
    movzwl %bp, %eax
    bswapl %eax
    movw $FW_CFG_DMA_LOW, %dx
    outl %eax, %dx
    // Zero when it is done, with the error bit when it failed.
1:  movl (%bp), %eax
    bswapl %eax
    testl $1, %eax
    jnz failed
    testl %eax, %eax
    jnz 1b
    addw $16, %sp
2:  ret

// The BIOS goes on with what is next in its order.
failed:
    int $0x18

    .balign BLOCK_BYTES
linux_rom_end:

    .section .note.GNU-stack, "", @progbits
