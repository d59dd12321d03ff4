# A guest of a few instructions that does one thing, named by the first letter of its command line, so that everything
# which ends or resets a machine can be tried on any KVM in milliseconds. Entered through PVH: 32-bit protected mode,
# paging off, EBX points to hvm_start_info.
#
#   p  power off by ACPI S5          r  reset by port 0xcf9        k  reset by the keyboard controller
#   c  report a panic (pvpanic)      t  triple fault               h  halt for ever
#   e  echo the serial port; 'q' powers off
#   l  write sector 1 of a disk as systems from before virtio 1.0 do, and power off; panic when no such disk is there

        .section .note.pvh, "a", @note
        .align 4
        .long 4                         # Name size.
        .long 4                         # Descriptor size.
        .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .long _start

        .text
        .code32
        .globl _start
_start:
        movl    24(%ebx), %esi          # hvm_start_info.cmdline_paddr
        movb    (%esi), %bl
        movl    $banner, %esi
        movl    $0x3f8, %edx
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        jmp     1b
2:      movb    %bl, %al
        outb    %al, %dx
        movb    $'\n', %al
        outb    %al, %dx

        cmpb    $'p', %bl
        je      power_off
        cmpb    $'r', %bl
        je      reset
        cmpb    $'k', %bl
        je      keyboard_reset
        cmpb    $'c', %bl
        je      panic
        cmpb    $'t', %bl
        je      triple_fault
        cmpb    $'e', %bl
        je      echo
        cmpb    $'l', %bl
        je      legacy_disk
halt:   cli
        hlt
        jmp     halt

power_off:
        movl    $0x604, %edx            # PM1_CNT: SLP_EN, SLP_TYP 0.
        movw    $0x2000, %ax
        outw    %ax, %dx
        jmp     halt

reset:  movl    $0xcf9, %edx
        movb    $0x0e, %al
        outb    %al, %dx
        jmp     halt

keyboard_reset:
        movb    $0xfe, %al
        outb    %al, $0x64
        jmp     halt

panic:  movl    $0x505, %edx
        movb    $1, %al
        outb    %al, %dx
        jmp     halt

triple_fault:
        lidt    no_idt
        ud2

echo:   movl    $0x3fd, %edx            # LSR: data ready?
        inb     %dx, %al
        testb   $1, %al
        jz      echo
        movl    $0x3f8, %edx
        inb     %dx, %al
        outb    %al, %dx
        cmpb    $'q', %al
        je      power_off
        jmp     echo

        # One queue at 4 MiB, whose entries are of the device's number, 256: the available ring is one page behind, the
        # used ring two. The kick comes before the driver says that it is ready.
legacy_disk:
        movl    $0x500000, %esp
        movl    $0x80000000, %esi       # Configuration space of 00:00.0, then of the slots behind it.
1:      movl    %esi, %eax
        call    read_config
        cmpl    $0x10011af4, %eax       # A transitional disk.
        je      2f
        addl    $0x800, %esi
        cmpl    $0x80010000, %esi
        jb      1b
        jmp     panic
2:      leal    0x10(%esi), %eax        # BAR 0: its ports.
        call    read_config
        movl    %eax, %ebp
        andl    $0xfffc, %ebp
        leal    18(%ebp), %edx          # Status: reset, then a driver.
        movb    $0, %al
        outb    %al, %dx
        movb    $3, %al
        outb    %al, %dx
        leal    8(%ebp), %edx           # Where queue 0 is.
        movl    $0x400, %eax
        outl    %eax, %dx
        movl    $0x404000, 0x400000     # The request: a header, 512 bytes, room for the status.
        movl    $16, 0x400008
        movl    $0x10001, 0x40000c
        movl    $0x405000, 0x400010
        movl    $512, 0x400018
        movl    $0x20001, 0x40001c
        movl    $0x404010, 0x400020
        movl    $1, 0x400028
        movl    $2, 0x40002c
        movl    $1, 0x404000            # Write
        movl    $1, 0x404008            # sector 1.
        movb    $0xff, 0x404010
        movl    $0x21444c4f, 0x405000   # "OLD!"
        movw    $1, 0x401002
        leal    16(%ebp), %edx
        movw    $0, %ax
        outw    %ax, %dx
3:      pause
        cmpw    $1, 0x402002
        jne     3b
        cmpb    $0, 0x404010
        je      power_off
        jmp     panic

read_config:                            # The register that EAX names, into EAX.
        movl    $0xcf8, %edx
        outl    %eax, %dx
        movl    $0xcfc, %edx
        inl     %dx, %eax
        ret

        .align 8
no_idt: .word   0
        .long   0
banner: .asciz  "mode "
