# A guest of a few instructions that does one thing, named by the first letter of its command line, so that everything
# which ends or resets a machine can be tried on any KVM in milliseconds. Entered through PVH: 32-bit protected mode,
# paging off, EBX points to hvm_start_info.
#
#   p  power off by ACPI S5          r  reset by port 0xcf9        k  reset by the keyboard controller
#   c  report a panic (pvpanic)      t  triple fault               h  halt for ever
#   e  echo the serial port; 'q' powers off

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

        .align 8
no_idt: .word   0
        .long   0
banner: .asciz  "mode "
