/* Stands for what another tool generates: act[k] = 2 obs[k] for `count` elements, in a known
 * number of instructions (4 around the loop, 5 in each turn of it), with 8 bytes of stack, a
 * table of 1024 bytes and a variable of 400. */
extern const float doubling_table[256];
extern float doubling_memory[100];
const float doubling_table[256] = {1.0f};
float doubling_memory[100];

void doubled(const float *obs, float *act, int count);

__asm__(
    "    .syntax unified\n"
    "    .thumb\n"
    "    .section .text.doubled, \"ax\", %progbits\n"
    "    .global doubled\n"
    "    .type doubled, %function\n"
    "    .thumb_func\n"
    "    .balign 8\n"
    "doubled:\n"
    "    push {r4, lr}\n"
    "    ldr r3, 2f\n"
    "1:  vldmia r0!, {s0}\n"
    "    vadd.f32 s0, s0, s0\n"
    "    vstmia r1!, {s0}\n"
    "    subs r2, r2, #1\n"
    "    bne 1b\n"
    "    ldr r3, 3f\n"
    "    pop {r4, pc}\n"
    "    .balign 4\n"
    "2:  .word doubling_table\n"
    "3:  .word doubling_memory\n"
    "    .size doubled, . - doubled\n"
    "    .text\n");
