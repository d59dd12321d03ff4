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

// Drives a disk as systems from before virtio 1.0 do, by the ports at 0xc000: queue 0 is at 0x200000, of 256 entries.
// Writes sector 1 before it says that it is ready, reads it back afterwards, gives the queue up and resets the device.
// Says the queue's size, each request's status, what it read, and what queue and status are in the end.
#define DISK 0xc000
#define QUEUE 0x200000
#define AVAILABLE (QUEUE + 0x1000)
#define USED (QUEUE + 0x2000)
#define HEADER 0x204000
#define DISK_STATUS (HEADER + 16)
#define WRITTEN 0x205000
#define READ 0x206000
#define SAY mov dx, 0x510; out dx,
#define KICK_AND_WAIT(count) mov word ptr ds:[AVAILABLE + 2], count; mov dx, DISK + 16; xor eax, eax; out dx, ax; \
    98: pause; cmp word ptr ds:[USED + 2], count; jne 98b

GUEST(legacy_disk)
    mov dx, DISK + 18       // Status: reset, acknowledge, driver.
    xor eax, eax
    out dx, al
    mov al, 1
    out dx, al
    mov al, 3
    out dx, al
    mov dx, DISK + 4        // No features.
    xor eax, eax
    out dx, eax
    mov dx, DISK + 14       // Queue 0: its size, then its page.
    out dx, ax
    mov dx, DISK + 12
    in ax, dx
    SAY ax
    mov dx, DISK + 8
    mov eax, QUEUE >> 12
    out dx, eax
    mov dword ptr ds:[QUEUE], HEADER        // Header, data, status.
    mov dword ptr ds:[QUEUE + 8], 16
    mov dword ptr ds:[QUEUE + 12], 0x10001
    mov dword ptr ds:[QUEUE + 16], WRITTEN
    mov dword ptr ds:[QUEUE + 24], 512
    mov dword ptr ds:[QUEUE + 28], 0x20001
    mov dword ptr ds:[QUEUE + 32], DISK_STATUS
    mov dword ptr ds:[QUEUE + 40], 1
    mov dword ptr ds:[QUEUE + 44], 2
    mov dword ptr ds:[HEADER], 1            // Write
    mov dword ptr ds:[HEADER + 8], 1        // sector 1.
    mov dword ptr ds:[WRITTEN], 0x5ec70001
    mov byte ptr ds:[DISK_STATUS], 0xff
    KICK_AND_WAIT(1)
    mov al, ds:[DISK_STATUS]
    SAY al
    mov dx, DISK + 18       // Ready.
    mov al, 7
    out dx, al
    mov dword ptr ds:[HEADER], 0            // Read.
    mov dword ptr ds:[QUEUE + 16], READ
    mov dword ptr ds:[QUEUE + 28], 0x20003
    mov byte ptr ds:[DISK_STATUS], 0xff
    KICK_AND_WAIT(2)
    mov al, ds:[DISK_STATUS]
    SAY al
    mov eax, ds:[READ]
    SAY eax
    mov dx, DISK + 8        // No queue any more.
    xor eax, eax
    out dx, eax
    in eax, dx
    SAY eax
    mov dx, DISK + 18       // No driver any more.
    xor eax, eax
    out dx, al
    in al, dx
    SAY al
    DONE
END(legacy_disk)

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
