"""An assembler and disassembler for eBPF: instructions with names and labels become bytes, and bytes become text.

The names are those of RFC 9669 in small letters: `mov`, `ldx`, `jeq`. An operand is a register or a number; numbers
are signed and have 32 bits. Only the instructions that the relay needs are here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple


class BadProgram(ValueError):
    """A program that cannot be assembled, or bytes that cannot be disassembled; str() says why."""


class Register(IntEnum):
    """One of the eleven registers."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register
"""R0: the result of a call and of the program. R1 to R5: arguments of a call, which destroys them. R6 to R9: preserved
by calls. R10: the end of the stack (512 bytes), read-only."""

W, DW = 4, 8
"""Sizes of loads and stores, in bytes."""

_SIZES = {W: 0x00, DW: 0x18}
_LDX_MEM, _ST_MEM, _STX_MEM, _MAP_BY_FD, _CALL, _EXIT = 0x61, 0x62, 0x63, 0x18, 0x85, 0x95
_X = 0x08
"""The bit of an opcode that says that the operand is a register."""

_ARITHMETIC = {0x07: "+=", 0x14: "-= (u32)", 0xB7: "="}
_JUMPS = {0x15: "==", 0x55: "!=", 0x25: ">", 0xB5: "<="}
_JA = 0x05

_FORM = struct.Struct("<BBhi")


class Instruction(NamedTuple):
    """An instruction. code: the opcode. target: the label of a jump, from which `offset` is computed."""

    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0
    target: str | None = None


class Label(str):
    """The name of the next instruction."""


def mov(dst: Register, operand: Register | int) -> Instruction:
    """dst = operand"""
    return _two(0xB7, dst, operand)


def add(dst: Register, operand: Register | int) -> Instruction:
    """dst += operand, of 64 bits"""
    return _two(0x07, dst, operand)


def sub32(dst: Register, operand: Register | int) -> Instruction:
    """dst = dst - operand, of 32 bits unsigned, with wrap-around"""
    return _two(0x14, dst, operand)


def ldx(size: int, dst: Register, base: Register, offset: int) -> Instruction:
    """dst = *(base + offset)"""
    return Instruction(_LDX_MEM | _SIZES[size], dst, base, offset)


def stx(size: int, base: Register, offset: int, src: Register) -> Instruction:
    """*(base + offset) = src"""
    return Instruction(_STX_MEM | _SIZES[size], base, src, offset)


def st(size: int, base: Register, offset: int, imm: int) -> Instruction:
    """*(base + offset) = imm"""
    return Instruction(_ST_MEM | _SIZES[size], base, 0, offset, imm)


def ja(target: str) -> Instruction:
    """Jump to the label `target`."""
    return Instruction(_JA, target=target)


def jeq(dst: Register, operand: Register | int, target: str) -> Instruction:
    """Jump if dst == operand. All comparisons are unsigned and of 64 bits."""
    return _two(0x15, dst, operand, target)


def jne(dst: Register, operand: Register | int, target: str) -> Instruction:
    """Jump if dst != operand."""
    return _two(0x55, dst, operand, target)


def jgt(dst: Register, operand: Register | int, target: str) -> Instruction:
    """Jump if dst > operand."""
    return _two(0x25, dst, operand, target)


def jle(dst: Register, operand: Register | int, target: str) -> Instruction:
    """Jump if dst <= operand."""
    return _two(0xB5, dst, operand, target)


def call(helper: int) -> Instruction:
    """R0 = the kernel's helper function of that number, called with R1 to R5 (linux/bpf.h, __BPF_FUNC_MAPPER)."""
    return Instruction(_CALL, imm=helper)


def leave() -> Instruction:
    """End the program ("exit"); R0 is its result."""
    return Instruction(_EXIT)


def map_by_fd(dst: Register, fd: int) -> tuple[Instruction, Instruction]:
    """dst = the map with that descriptor. It has the size of two instructions (RFC 9669, section 5.4)."""
    return Instruction(_MAP_BY_FD, dst, 1, imm=fd), Instruction(0)


def _two(code: int, dst: Register, operand: Register | int, target: str | None = None) -> Instruction:
    if isinstance(operand, Register):
        return Instruction(code | _X, dst, operand, target=target)
    return Instruction(code, dst, imm=operand, target=target)


Line = Instruction | tuple[Instruction, Instruction] | Label


def assemble(lines: Iterable[Line]) -> bytes:
    """Return the byte code. Raises BadProgram for a label that is missing, duplicate or too far away, and for a number
    that is too large."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if isinstance(line, Label):
            if line in labels:
                raise BadProgram(f"two labels named {line!s}")
            labels[line] = len(instructions)
        elif isinstance(line, Instruction):
            instructions.append(line)
        else:
            instructions += line
    return b"".join(_encoded(place, instruction, labels) for place, instruction in enumerate(instructions))


def _encoded(place: int, instruction: Instruction, labels: Mapping[str, int]) -> bytes:
    code, dst, src, offset, imm, target = instruction
    if target is not None:
        if target not in labels:
            raise BadProgram(f"no label named {target}")
        offset = labels[target] - place - 1
    try:
        return _FORM.pack(code, src << 4 | dst, offset, imm)
    except struct.error:
        what = "the label is too far away" if target is not None else "a number is too large"
        raise BadProgram(f"instruction {place}: {what}") from None


def disassemble(code: bytes, maps: Mapping[int, str] | None = None) -> list[str]:
    """Return a line of text for each instruction, which begins with its number; jumps show the number of their target.

    maps: descriptor -> name. Raises BadProgram for instructions that this module cannot make.
    """
    lines: list[str] = []
    second = False
    for place, (opcode, registers, offset, imm) in enumerate(_FORM.iter_unpack(code)):
        if not second:
            lines.append(f"{place:2} {_text(place, opcode, registers, offset, imm, maps or {})}")
        second = opcode == _MAP_BY_FD and not second
    return lines


def _text(place: int, code: int, registers: int, offset: int, imm: int, maps: Mapping[int, str]) -> str:
    dst, src = f"r{registers & 15}", f"r{registers >> 4}"
    operand = src if code & _X else str(imm)
    size = {0x00: "u32", 0x18: "u64"}.get(code & 0x18)
    plain = code & ~_X
    if code == _CALL:
        return f"call {imm}"
    if code == _EXIT:
        return "exit"
    if code == _JA:
        return f"goto {place + 1 + offset}"
    if code == _MAP_BY_FD and registers >> 4 == 1:
        return f"{dst} = map {maps.get(imm, imm)}"
    if code & ~0x18 == _LDX_MEM and size:
        return f"{dst} = {size} [{src}{offset:+}]"
    if code & ~0x18 == _STX_MEM and size:
        return f"{size} [{dst}{offset:+}] = {src}"
    if code & ~0x18 == _ST_MEM and size:
        return f"{size} [{dst}{offset:+}] = {imm}"
    if plain in _ARITHMETIC:
        return f"{dst} {_ARITHMETIC[plain]} {operand}"
    if plain in _JUMPS:
        return f"if {dst} {_JUMPS[plain]} {operand} goto {place + 1 + offset}"
    raise BadProgram(f"instruction {place}: unknown code {code:#04x}")
