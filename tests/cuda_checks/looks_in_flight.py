"""Whether one warp can have several looks at the mailbox on their way at once, read from the machine code.

    python tests/cuda_checks/looks_in_flight.py [sm_90 ...]

A load tells that it has come by one of six scoreboards of its warp, and whoever waits for a scoreboard waits for all loads that
have it. So looks that are begun one after another are of use only where each has a scoreboard of its own. This compiles a loop of
four looks and says which scoreboard the assembler gives to each, and for how many loads the first test of a word waits.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

LOOKS = 4
SOURCE = """
using Word = unsigned long long;
static __device__ __forceinline__ Word load_system(const Word* from) {
  Word word;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
extern "C" __global__ void __launch_bounds__(32) looks(const Word* from, unsigned* to, unsigned sequence) {
  const Word* at = from + threadIdx.x;
  Word words[LOOKS];
#pragma unroll
  for (int l = 0; l < LOOKS; ++l) {
    words[l] = load_system(at);
    for (const unsigned begin = clock(); static_cast<unsigned>(clock()) - begin < 400;) {
    }
  }
  for (;;) {
#pragma unroll
    for (int l = 0; l < LOOKS; ++l) {
      if (static_cast<unsigned>(words[l] >> 32) == sequence) {
        to[threadIdx.x] = static_cast<unsigned>(words[l]);
        return;
      }
      words[l] = load_system(at);
    }
  }
}
"""
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,5}\*/\s+(.*?);\s*/\* 0x[0-9a-f]{16} \*/")
ENCODING = re.compile(r"/\* 0x([0-9a-f]{16}) \*/")


def decoded(code: bytes) -> list[tuple[str, int, int]]:
    """(instruction, the scoreboard that it sets when it is done or 7, the scoreboards that it waits for as bits), from the second
    half of each encoding since Volta: 4 bits of stall, 1 of yield, 3 and 3 of scoreboards, 6 to wait for."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "looks.cubin"
        path.write_bytes(code)
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", "-hex", str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for line, following in pairwise(lines):
        text, high = INSTRUCTION.match(line), ENCODING.search(following)
        if text and high:
            control = int(high[1], 16) >> 41
            found.append((text[1], control >> 5 & 7, control >> 11 & 63))
    return found


def looks(capability: int) -> tuple[list[int], int]:
    """(scoreboard of each look, those of them that the first test of a word waits for)."""
    from cuda import core

    options = core.ProgramOptions(arch=f"sm_{capability}", define_macro=[("LOOKS", str(LOOKS))], std="c++17")
    made = decoded(core.Program(SOURCE, "c++", options).compile("cubin").code)
    at = [i for i, (text, _, _) in enumerate(made) if "LDG" in text and "STRONG.SYS" in text]
    boards = [made[i][1] for i in at]
    waits = next(wait for _, _, wait in made[at[LOOKS - 1] + 1 :] if any(wait >> board & 1 for board in boards))
    return boards, sum(bool(waits >> board & 1) for board in boards[:LOOKS])


def main(words: list[str]) -> None:
    for word in words or ["sm_80", "sm_90", "sm_100", "sm_120"]:
        boards, waited = looks(int(word.removeprefix("sm_")))
        print(f"{word}: scoreboards {boards}; the first test waits for {waited} of {LOOKS} looks")


if __name__ == "__main__":
    main(sys.argv[1:])
