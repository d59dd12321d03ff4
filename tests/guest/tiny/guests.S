// Tiny guest programs, loaded by the host at 1 MiB and entered with flat segments. None returns: each ends by writing
// to port 0x500. Handlers do not use iret either, which some KVM kinds cannot emulate: they start over at `idle`.
//
//   port 0x500  "done"          port 0x510  a value for the host       port 0x520  a doorbell
//   0xd0000000  no memory there: every access is an exit

    .intel_syntax noprefix
    .section .rodata

#define BASE 0x100000
#define GUEST(name) .global tiny_##name; .global tiny_##name##_end; .balign 16; tiny_##name:
#define END(name) tiny_##name##_end:
#define DONE mov dx, 0x500; out dx, al; 99: hlt; jmp 99b

    .code32

// Ports of each width, a string, memory-mapped reads and writes.
GUEST(ports)
    mov dx, 0x510
    mov al, 0x56
    out dx, al
    in al, dx
    inc al
    out dx, al
    mov eax, 0x11223344
    out dx, eax
    mov byte ptr ds:[0xd0000010], 0x5a
    mov eax, ds:[0xd0000020]
    mov dx, 0x510
    out dx, eax
    cld
    mov esi, BASE + (hello - tiny_ports)
    mov ecx, 5
    mov dx, 0x514
    rep outsb
    DONE
hello:
    .ascii "hello"
END(ports)

// Doorbells in ports and memory, matching and not.
GUEST(doorbells)
    mov dx, 0x520
    mov ax, 7
    out dx, ax
    mov ax, 8
    out dx, ax
    mov word ptr ds:[0xd0000100], 3
    mov dword ptr ds:[0xd0000100], 4
    mov dword ptr ds:[0xd0000104], 9
    mov dword ptr ds:[0xd0000104], 10
    DONE
END(doorbells)

// Takes interrupts by three ways and says the vector of each: ISA interrupt 4 through the PIC (0x24), a message
// (0x41), and level-triggered pin 16 of the I/O APIC (0x42).
GUEST(interrupts)
    mov al, 0x11            // ICW1 to both 8259s: edge, cascade, ICW4 follows.
    out 0x20, al
    out 0xa0, al
    mov al, 0x20            // ICW2: vectors from 0x20 and 0x28.
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4               // ICW3: the cascade.
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1               // ICW4: 8086 mode.
    out 0x21, al
    out 0xa1, al
    mov al, 0xef            // Only IRQ 4.
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    mov dword ptr ds:[0xfee000f0], 0x1ff    // Local APIC on, spurious vector 0xff.
    mov dword ptr ds:[0xfec00000], 0x31     // I/O APIC pin 16: to APIC 0,
    mov dword ptr ds:[0xfec00010], 0
    mov dword ptr ds:[0xfec00000], 0x30
    mov dword ptr ds:[0xfec00010], 0x8042   // level, vector 0x42.
    mov dx, 0x510
    mov al, 1                               // Ready.
    out dx, al
idle:
    mov esp, 0x8ff0
    sti
    hlt
    jmp idle
    .balign 16
    .global tiny_on_isa
tiny_on_isa:
    mov dx, 0x510
    mov al, 0x24
    out dx, al
    mov al, 0x20
    out 0x20, al
    jmp idle
    .balign 16
    .global tiny_on_message
tiny_on_message:
    mov al, 0x41
    jmp from_apic
    .balign 16
    .global tiny_on_level
tiny_on_level:
    mov al, 0x42
from_apic:
    mov dx, 0x510
    out dx, al
    mov dword ptr ds:[0xfee000b0], 0        // End of interrupt.
    jmp idle
END(interrupts)

// Writes to RAM and to a slot that is read-only.
GUEST(writer)
    mov dword ptr ds:[0x201000], 1
    mov dword ptr ds:[0x205000], 2
    mov eax, ds:[0x400000]
    mov dx, 0x510
    out dx, eax
    mov dword ptr ds:[0x400000], 5
    DONE
END(writer)

// 1, 2, 4, 8, ... for ever.
GUEST(doubler)
    mov ebx, 1
    mov dx, 0x510
1:  mov eax, ebx
    out dx, eax
    add ebx, ebx
    jmp 1b
END(doubler)

// Says one value, then never exits by itself.
GUEST(spinner)
    mov dx, 0x510
    out dx, al
1:  jmp 1b
END(spinner)

    .code64

// Entered in long mode: says its argument and what CPUID tells of KVM, and writes 8 bytes to memory that is not there.
GUEST(long_mode)
    mov dx, 0x510
    mov eax, esi
    out dx, eax
    movabs r8, 0x1122334455667788
    mov eax, 0xd0000000
    mov [rax], r8
    mov eax, 0x40000000
    cpuid
    mov eax, ebx
    mov dx, 0x510
    out dx, eax
    DONE
END(long_mode)

    .section .note.GNU-stack, "", @progbits
