# A firmware of 64 KiB that uses what a PC has for firmware and says on the serial port what it found, so that all of
# it can be tried on any KVM in milliseconds. It is written for the processor's first state: real mode, 16 bytes below
# 4 GiB, and jumps to its copy below 1 MiB, as every BIOS does.
#
#   QEMU   the first item of fw_cfg
#   rom    a write to the ROM was lost
#   below  a write went to the RAM below the ROM, which still reads as ROM
#   ram    that RAM reads as it was written, and the code copied into it runs
#   lock   made read-only, it took no write
#   name   the first file of the directory, fetched by DMA
#   flash  of 8 KiB below the ROM, if there is any: it is found as OVMF finds it, takes a byte and erases a block
#   kept   it holds that byte already
#
# The first time it resets the machine then, which must bring the ROM back; the second time it powers off.

        .code16
        .set    serial, 0x3f8
        .text
        .globl  _start
_start:
        .org    0xf000
begin:
        movw    $0x0000, %ax            # A stack well below, in RAM.
        movw    %ax, %ss
        movw    $0x7000, %sp
        pushw   %cs
        popw    %ds

        # fw_cfg: item 0, byte by byte.
        movw    $0x510, %dx
        xorw    %ax, %ax
        outw    %ax, %dx
        movw    $4, %cx
        incw    %dx
1:      inb     %dx, %al
        call    put
        loop    1b
        movb    $' ', %al
        call    put

        # ROM takes no writes.
        movb    $0x5a, mark
        cmpb    $0, mark
        jne     failed
        movw    $said_rom, %si
        call    say

        # Writes to the RAM below, reads from ROM: copy what runs.
        movb    $0x20, %al
        call    set_pam0
        movb    $0x5a, mark
        cmpb    $0, mark
        jne     failed
        pushw   %cs
        popw    %es
        movw    $begin, %si
        movw    %si, %di
        movw    $(code_end - begin), %cx
        cld
        rep     movsb
        movw    $said_below, %si
        call    say

        # All RAM. The copy brought the ROM's mark, so that it is 0 now.
        movb    $0x30, %al
        call    set_pam0
        cmpb    $0, mark
        jne     failed
        movb    $0x5a, mark
        cmpb    $0x5a, mark
        jne     failed
        movw    $said_ram, %si
        call    say

        # And locked.
        movb    $0x10, %al
        call    set_pam0
        movb    $0x77, mark
        cmpb    $0x5a, mark
        jne     failed
        movw    $said_lock, %si
        call    say

        # The directory by DMA: select 0x19 and skip 4 + 8 bytes, then read 56. The request is built at 0x6000, all of it
        # big-endian.
        xorw    %ax, %ax
        movw    %ax, %es
        movl    $0x0c001900, %es:0x6000 # Select 0x19, skip.
        movl    $0x0c000000, %es:0x6004
        call    run_dma
        movl    $0x02000000, %es:0x6000 # Read.
        movl    $0x38000000, %es:0x6004
        movl    $0, %es:0x6008
        movl    $0x00500000, %es:0x600c # To 0x5000.
        call    run_dma
        movw    $0x5000, %si
        movw    %es, %ax
        movw    %ax, %ds
        call    say
        pushw   %cs
        popw    %ds

        # Memory at the top of 4 GiB through %fs, whose limit stays as protected mode has set it.
        lgdt    gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %fs
        andb    $0xfe, %al
        movl    %eax, %cr0
        movl    $0xfffee000, %edi
        cmpl    $0x4856465f, %fs:40(%edi)       # "_FVH"
        jne     after_flash
        cmpb    $0x42, %fs:100(%edi)
        jne     1f
        movw    $said_kept, %si
        call    say
1:      movb    $0x50, %fs:(%edi)       # Clear the status, show it.
        movb    $0x70, %fs:(%edi)
        cmpb    $0, %fs:(%edi)
        jne     failed
        movb    $0x10, %fs:100(%edi)    # Program.
        movb    $0x42, %fs:100(%edi)
        cmpb    $0x80, %fs:100(%edi)
        jne     failed
        movb    $0x20, %fs:4096(%edi)   # Erase the second block.
        movb    $0xd0, %fs:4096(%edi)
        cmpb    $0x80, %fs:4096(%edi)
        jne     failed
        movb    $0xff, %fs:(%edi)       # An array again.
        cmpb    $0x42, %fs:100(%edi)
        jne     failed
        cmpb    $0xff, %fs:4097(%edi)
        jne     failed
        movw    $said_flash, %si
        call    say
after_flash:

        # The clock's memory is kept over a reset.
        movb    $0x70, %al
        outb    %al, $0x70
        inb     $0x71, %al
        testb   %al, %al
        jnz     power_off
        movb    $1, %al
        outb    %al, $0x71
        movw    $0xcf9, %dx
        movb    $0x0e, %al
        outb    %al, %dx
        jmp     halt

power_off:
        movw    $said_end, %si
        call    say
        # PMBASE 0x600, switched on; then S5.
        movl    $0x8000f840, %eax
        movl    $0x601, %ecx
        call    set_config
        movl    $0x8000f844, %eax
        movl    $0x80, %ecx
        call    set_config
        movw    $0x604, %dx
        movw    $0x2000, %ax
        outw    %ax, %dx
        jmp     halt

failed: movw    $said_failed, %si
        call    say
halt:   cli
        hlt
        jmp     halt

# %al to the serial port.
put:    pushw   %dx
        movw    $serial, %dx
        outb    %al, %dx
        popw    %dx
        ret

# The text at %ds:%si and a space.
say:    lodsb
        testb   %al, %al
        jz      1f
        call    put
        jmp     say
1:      movb    $' ', %al
        jmp     put

# %al to PAM0.
set_pam0:
        pushw   %ax
        movl    $0x80000090, %eax
        movw    $0xcf8, %dx
        outl    %eax, %dx
        popw    %ax
        movw    $0xcfc, %dx
        outb    %al, %dx
        ret

# %ecx to the register of %eax.
set_config:
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movl    %ecx, %eax
        outl    %eax, %dx
        ret

# Runs the request at 0x6000, whose control is 0 afterwards.
run_dma:
        movw    $0x514, %dx
        xorl    %eax, %eax
        outl    %eax, %dx
        movw    $0x518, %dx
        movl    $0x00600000, %eax
        outl    %eax, %dx
        cmpl    $0, %es:0x6000
        jne     failed
        ret

said_rom:       .asciz "rom"
said_below:     .asciz "below"
said_ram:       .asciz "ram"
said_lock:      .asciz "lock"
said_flash:     .asciz "flash"
said_kept:      .asciz "kept"
said_end:       .asciz "end"
said_failed:    .asciz "FAILED"
        .balign 8
gdt:            .quad 0
                .quad 0x00cf93000000ffff        # All of 4 GiB; accessed, since the table is locked.
gdt_pointer:    .word 15
                .long 0xf0000 + gdt
mark:           .byte 0
code_end:

        .org    0xfff0
        ljmp    $0xf000, $begin
        .org    0x10000
