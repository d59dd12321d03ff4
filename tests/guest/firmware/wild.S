# A firmware of 64 KiB that writes nonsense to whatever it can reach: ports, PCI configuration, registers in memory,
# fw_cfg's DMA. Where the numbers lead is another thing each time, since they begin with the time stamp counter; it says
# "wild " on the serial port each time it begins, and resets the machine after a while.
#
# It runs where the processor begins, below 4 GiB, which nothing it does can change, and keeps interrupts off.

        .code16
        # The next number of Marsaglia's xorshift to %eax and %ebp, where it is kept.
        .macro  next
        movl    %ebp, %eax
        shll    $13, %eax
        xorl    %eax, %ebp
        movl    %ebp, %eax
        shrl    $17, %eax
        xorl    %eax, %ebp
        movl    %ebp, %eax
        shll    $5, %eax
        xorl    %ebp, %eax
        movl    %eax, %ebp
        .endm
        # %ecx to the PCI register of %eax.
        .macro  set_config
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        xchgl   %eax, %ecx
        outl    %eax, %dx
        xchgl   %eax, %ecx
        .endm

        .set    actions, 20000
        .text
        .globl  _start
_start:
        .org    0xf000
begin:  cli
        movw    $0x3f8, %dx
        movw    $said, %si
1:      movb    %cs:(%si), %al
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        incw    %si
        jmp     1b
2:      rdtsc
        movl    %eax, %ebp
        orl     $1, %ebp
        movl    $actions, %edi

        # All memory through %fs, whose limit stays as protected mode has set it.
        lgdtl   %cs:gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %fs
        andb    $0xfe, %al
        movl    %eax, %cr0

        # The devices in slots 1 to 6 get their registers at 0xc0100000 and so on, the AHCI controller at 0xc0800000.
        movl    $0x80000800, %ebx
        movl    $0xc0100000, %ecx
3:      movl    %ebx, %eax
        movb    $0x20, %al              # BAR 4, 64 bits wide.
        set_config
        movb    $0x24, %al
        xorl    %esi, %esi
        xchgl   %ecx, %esi
        set_config
        movl    %esi, %ecx
        movb    $0x04, %al
        movl    $7, %ecx
        set_config
        leal    0x100000(%esi), %ecx
        addl    $0x800, %ebx
        cmpl    $0x80003800, %ebx
        jb      3b
        movl    $0x8000fa24, %eax
        movl    $0xc0800000, %ecx
        set_config
        movb    $0x04, %al
        movl    $7, %ecx
        set_config

again:  decl    %edi
        jz      reset
        next
        andb    $0x0f, %al
        cmpb    $5, %al
        jb      port
        cmpb    $7, %al
        jb      config
        cmpb    $15, %al
        jb      memory

        # fw_cfg: a request at 0x6000.
        movl    $0x6000, %esi
1:      next
        movl    %eax, %fs:(%esi)
        addl    $4, %esi
        cmpl    $0x6010, %esi
        jb      1b
        xorl    %eax, %eax
        movw    $0x514, %dx
        outl    %eax, %dx
        movl    $0x00600000, %eax       # Big-endian.
        movw    $0x518, %dx
        outl    %eax, %dx
        jmp     again

        # Any port or one near those that something listens at.
port:   next
        movl    %eax, %ebx
        shrl    $16, %eax
        movw    %ax, %dx
        testb   $3, %bl
        jz      1f
        andw    $0x1f, %bx
        addw    %bx, %bx
        andw    $7, %dx
        addw    %cs:ports(%bx), %dx
1:      cmpw    $0xcf9, %dx             # Not the reset port, or nothing would live for long.
        je      again
        next
        movl    %eax, %ecx
        shrl    $8, %eax
        testb   $1, %cl
        jz      2f
        testb   $2, %cl
        jz      3f
        testb   $4, %cl
        jz      4f
        inl     %dx, %eax
        jmp     again
2:      outb    %al, %dx
        jmp     again
3:      outw    %ax, %dx
        jmp     again
4:      outl    %eax, %dx
        jmp     again

config: next
        movl    %eax, %ecx
        next
        xchgl   %eax, %ecx
        andl    $0x0000fffc, %eax
        orl     $0x80000000, %eax
        set_config
        jmp     again

        # An area of the table, and a place in it.
memory: next
        movl    %eax, %ebx
        andw    $0x7, %bx
        shlw    $3, %bx
        next
        andl    %cs:areas+4(%bx), %eax
        addl    %cs:areas(%bx), %eax
        movl    %eax, %esi
        next
        movl    %eax, %ecx
        shrl    $8, %eax
        testb   $1, %cl
        jz      2f
        testb   $2, %cl
        jz      3f
        testb   $4, %cl
        jz      4f
        movl    %fs:(%esi), %eax
        jmp     again
2:      movb    %al, %fs:(%esi)
        jmp     again
3:      movw    %ax, %fs:(%esi)
        jmp     again
4:      movl    %eax, %fs:(%esi)
        jmp     again

reset:  movw    $0xcf9, %dx
        movb    $0x0e, %al
        outb    %al, %dx
halt:   hlt
        jmp     halt

said:   .asciz "wild "
        .balign 4
ports:  .word   0x00, 0x20, 0x40, 0x60, 0x70, 0x80, 0x61, 0xa0, 0xb2, 0xc0, 0x4d0, 0x3f8, 0x2f8, 0x402, 0x70, 0x510
        .word   0x514, 0x518, 0x600, 0x608, 0x620, 0x628, 0x630, 0xb000, 0xcf8, 0xcfc, 0xcfc, 0x3f8, 0x3d0, 0x1f0, 0x170, 0xc000
        # Where, and which bits of a place in it.
areas:  .long   0, 0xffffffff
        .long   0xc0000000, 0x00f07fff
        .long   0xc0000000, 0x00f0003f
        .long   0xc0800000, 0x000001ff
        .long   0xb0000000, 0x000fffff
        .long   0xfec00000, 0x0000003f
        .long   0xfee00000, 0x00000fff
        .long   0xff000000, 0x00ffffff
        .balign 8
gdt:    .quad 0
        .quad 0x00cf93000000ffff        # All of 4 GiB; accessed, since the table is in ROM.
gdt_pointer:
        .word 15
        .long 0xffff0000 + gdt

        .org    0xfff0
        jmp     begin
        .org    0x10000
