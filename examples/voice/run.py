"""Voice: gate, voice activity and wake word in stages, on a file, a microphone and a thousand lines at once."""

from __future__ import annotations

import argparse
import copy
import json
import queue
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared import audio, data
from examples._shared.outcome import Limit, Missing, Outcome, main
from examples._shared.timing import p99_us, per_call_us
from examples.voice import many, networks
from examples.voice.listen import SECONDS, WORD, Heard, Lines, Networks, full_words, hear, segments
from examples.voice.networks import CHUNK, HOP, RATE
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

SWW = ("https://github.com/mlcommons/tiny has benchmark/training/streaming_wakeword; take sww_weights.npz and "
       "calibration_samples.npz as README.md says")  # fmt: skip
VAD = "https://github.com/snakers4/silero-vad has tests/data/test.wav"
SEGMENTS, RIGHT, OF = 19, 41, 45
TALKING = 0.1


def load_networks(args: argparse.Namespace) -> tuple[Networks, Path]:
    """The networks and the folder of the wake word's files."""
    folder = data.folder(args.data and args.data / "mlperf_tiny_sww", "mlperf_tiny_sww", ("sww_weights.npz",), SWW)
    encoder, speech = networks.speech(networks.package() / "silero_vad_16k_op15.onnx")
    return Networks(encoder, speech, networks.word(folder / "sww_weights.npz")), folder


def work(args: argparse.Namespace) -> Outcome:
    if args.device == "cuda":
        raise Missing("--device cuda: the stages of a cascade are plans of the CPU; leave it out.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        nets, folder = load_networks(args)
        if args.microphone or args.wav:
            return listened(nets, args)
        return judged(nets, folder, args)
    finally:
        torch.set_num_threads(threads)


def right_words(nets: Networks, folder: Path) -> tuple[int, int]:
    """Right answers of 45 of the wake word, streamed frame by frame, in float32 and int8."""
    x, classes = networks.labelled(folder / "calibration_samples.npz")
    found = []
    for scheme in ("float32", "w8a8"):
        live = rt.stream(nets.word, x[:, :, 0], scheme, calibration=None if scheme == "float32" else [x])
        for frame in x.unbind(2):
            y = live.step(frame.contiguous())
        found.append(int((y.argmax(1) == classes).sum()))
    return found[0], found[1]


@data.reads("a list of where the word is said")
def windows(file: Path) -> list[tuple[float, float]]:
    """Seconds, from and to."""
    return [(float(a), float(b)) for a, b in json.loads(file.read_text(encoding="utf-8"))[0]["detection_windows"]]


def judged(nets: Networks, folder: Path, args: argparse.Namespace) -> Outcome:
    wav = data.folder(args.data and args.data / "vad_wav", "vad_wav", ("test.wav",), VAD) / "test.wav"
    talk = audio.recording(wav, RATE)
    short = audio.recording(folder / "short_wav_easy10s.wav", RATE)
    said = windows(folder / "sww_short_test.json")
    three, full = Lines(1, nets), Lines(1, nets, everything=True)
    minute, ten = (audio.chunks(x, CHUNK, HOP) for x in (talk, short))
    in_talk, in_short = hear(three, minute), hear(three, ten)
    all_talk, all_short = hear(full, minute), hear(full, ten)
    parts, all_parts = segments(in_talk.speech, len(talk)), segments(all_talk.speech, len(talk))
    float32, int8 = right_words(nets, folder)
    heard = hits(in_short.words(), said)
    false = len(in_talk.words()), len(full_words(all_talk))
    count, steps = (400, 40) if args.quick else (1000, 60)
    loads = [many.load(nets, count, steps, share, many.QUIET_DB, talk) for share in (0.0, TALKING, 0.4, 1.0)]
    loud = many.load(nets, count, steps, TALKING, many.LOUD_DB, talk)
    ten_percent = loads[1]
    one = one_line_us(nets, args.quick)
    rows = [("", "gate, then networks", "all networks")]
    rows += [
        ("segments of speech in 60 s, 19 published", str(len(parts)), str(len(all_parts))),
        ("  the same to the sample", str(sum(p in all_parts for p in parts)), "-"),
        ("words heard of 3 in 10 s", str(heard), str(hits(full_words(all_short), said))),
        ("words heard in 60 s of talk without one", str(false[0]), str(false[1])),
        ("one line, us a chunk: silence / speech", f"{one[0]:.1f} / {one[1]:.1f}", f"{one[2]:.1f}"),
    ]
    rows += [
        (
            f"{count:,} lines that talk {x.talking:.0%} of the time: us a line and chunk",
            f"{x.cascade_us:.2f}",
            f"{x.full_us:.2f}",
        )
        for x in loads
    ]
    rows += [
        (f"  {TALKING:.0%}, in a room too loud for the gate", f"{loud.cascade_us:.2f}", f"{loud.full_us:.2f}"),
        (
            f"cores that 1,000 lines need, talking {TALKING:.0%}",
            f"{ten_percent.real_time:.2f}",
            f"{ten_percent.full_real_time:.2f}",
        ),
    ]
    metrics: dict[str, Any] = {
        "segments": len(parts), "segments_same": sum(p in all_parts for p in parts), "words_right": float32,
        "words_right_int8": int8, "words_heard_in_wav": heard, "words_heard_in_talk": false[0],
        "words_heard_in_talk_full": false[1], "lines": count, "us_a_line": ten_percent.cascade_us,
        "us_a_line_full": ten_percent.full_us, "times_below_full": ten_percent.full_us / ten_percent.cascade_us,
        "times_below_full_by_talking": {f"{x.talking:g}": x.full_us / x.cascade_us for x in loads},
        "times_below_full_loud_room": loud.full_us / loud.cascade_us, "real_time_factor_1000_lines": ten_percent.real_time,
        "one_line_silence_us": one[0], "one_line_speech_us": one[1], "share_speech_network": float(ten_percent.shares[1]),
        "share_word_network": float(ten_percent.shares[2]), "p99_us": one[3],
    }  # fmt: skip
    limits = [
        Limit("segments of speech", len(parts), SEGMENTS, at_least=True),
        Limit("segments that are the network's own", metrics["segments_same"], SEGMENTS, at_least=True),
        Limit(f"wake words right of {OF}", float32, RIGHT, at_least=True),
        Limit(f"wake words right of {OF}, int8", int8, RIGHT, at_least=True),
        Limit("words heard of 3", heard, 3, at_least=True),
        Limit("words heard where there is none, beyond those of the networks alone", false[0] - false[1], 0),
        Limit(f"times below all networks, talking {TALKING:.0%}", metrics["times_below_full"], 5, at_least=True),
        Limit("cores for 1,000 lines", ten_percent.real_time, 1),
    ]
    shares = ten_percent.shares
    notes = [
        f"Wake words: {float32} of {OF} right in float32, {int8} in int8, streamed frame by frame; 41 are published.",
        f"Talking {TALKING:.0%} of the time: {shares[1]:.1%} of the chunks reach the voice activity, {shares[2]:.1%} the word.",
        "A line that talks all the time saves nothing, and a room above the gate only the wake word. Means over all steps.",
    ]
    return Outcome(
        "voice",
        "Voice: gate, voice activity, wake word",
        "Chunks of 32 ms. A gate lets through what is not silence, silero's network what may be speech, and MLPerf Tiny's "
        "network listens for its word. Each is one native plan with its spectrum inside; lines that need no more are left out.",
        rows, metrics, limits, notes, [_plots(in_talk, in_short, all_short, said, loads)],
    )  # fmt: skip


def hits(times: list[float], said: list[list[float]]) -> int:
    """How many of the words that were said are heard: before a quarter of a second after their end."""
    return sum(any(a < t < b + 0.25 for t in times) for a, b in said)


def one_line_us(nets: Networks, quick: bool) -> tuple[float, float, float, float]:
    """us of a chunk of one line: silence and speech with the gate, and all networks; and the p99 of speech with the gate."""
    rounds, calls = (5, 100) if quick else (15, 300)
    sound = torch.from_numpy(np.random.default_rng(0).normal(size=(1, CHUNK)).astype(np.float32)) * 0.1
    gated, full, passing = Lines(1, nets), Lines(1, nets, everything=True), talking_line(nets)
    silent = torch.zeros(1, CHUNK)
    steps = (lambda: gated.step(silent)), (lambda: passing.step(sound)), (lambda: full.step(sound))
    a, b, c = (per_call_us(step, calls, rounds)[0] for step in steps)
    return a, b, c, p99_us(steps[1])


def talking_line(nets: Networks) -> Lines:
    """A line whose chunks all go through to the wake word, whatever is heard."""
    with torch.no_grad():
        sure = copy.deepcopy(nets.speech)
        sure.head.bias += 100.0
    return Lines(1, Networks(nets.encoder, sure, nets.word), floor_db=-200.0)


def listened(nets: Networks, args: argparse.Namespace) -> Outcome:
    """A microphone or a file of one's own, in packets of 10 ms."""
    lines, packets = Lines(1, nets, args.floor_db), audio.Packets(CHUNK, HOP)
    speech, word = [], []
    source = microphone(args.microphone) if args.microphone else file_packets(args.wav)
    for packet in source:
        for chunk in packets.put(packet):
            likely, now = lines.step(torch.from_numpy(np.ascontiguousarray(chunk))[None])
            if now[0] > WORD and (not word or word[-1] <= WORD):
                print(f"{len(word) * SECONDS:7.2f} s  the word", flush=True)
            speech.append(float(likely[0]))
            word.append(float(now[0]))
    found = Heard(np.array(speech, np.float32), np.array(word, np.float32), lines.calls / max(len(speech), 1))
    parts = segments(found.speech, len(speech) * HOP)
    rows = [("speech from", "to"), *((f"{a:.1f} s", f"{b:.1f} s") for a, b in parts)]
    metrics = {"segments": len(parts), "seconds": len(speech) * SECONDS, "words": found.words()}
    notes = [f"The word at {', '.join(f'{t:.2f}' for t in found.words()) or 'no time'}."]
    return Outcome("voice", "Voice", "What was heard.", rows, metrics, [], notes)


def file_packets(path: Path) -> Any:
    samples = audio.recording(path, RATE)
    return (samples[i : i + RATE // 100] for i in range(0, len(samples), RATE // 100))


def microphone(seconds: float) -> Any:
    """Packets of 10 ms from the default microphone."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package without the PortAudio library
        raise Missing(f"no microphone without the package sounddevice ({error}): pip install sounddevice.") from None
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        stream = sounddevice.InputStream(RATE, RATE // 100, channels=1, dtype="float32",
                                         callback=lambda block, *_: waiting.put(block[:, 0].copy()))  # fmt: skip
    except sounddevice.PortAudioError as error:
        raise Missing(f"no microphone ({error}): connect one, or pass --wav FILE.") from None
    end = time.monotonic() + seconds
    with stream:
        while time.monotonic() < end:
            try:
                yield waiting.get(timeout=1.0)
            except queue.Empty:
                raise Missing("the microphone gives nothing: check that it is not muted.") from None


def _plots(talk: Heard, short: Heard, full: Heard, said: list[list[float]], loads: list[many.Load]) -> str:
    seconds = (np.arange(len(talk.speech)) + 1) * SECONDS
    ten = (np.arange(len(short.word)) + 1) * SECONDS
    shown = seconds <= 20
    shares = np.array([x.talking for x in loads]) * 100
    return chart_section(
        "What is heard, and what it costs",
        [
            Chart("the first 20 s of talk", [Curve("probability of speech", seconds[shown], talk.speech[shown])],
                  limits={"speech": 0.5}, x_title="seconds", y_title="probability", from_zero=True),
            Chart(
                f"the word, said at {', '.join(f'{a:g}' for a, _ in said)} s",
                [Curve("all networks", ten, full.word, shade=7), Curve("behind gate and speech", ten, short.word, shade=0)],
                limits={"heard": WORD}, x_title="seconds", y_title="probability of the word", from_zero=True,
            ),
            Chart(
                "what a line costs",
                [Curve("all networks", shares, np.array([x.full_us for x in loads]), shade=7),
                 Curve("gate first", shares, np.array([x.cascade_us for x in loads]), shade=0)],
                x_title="share of the time that a line talks, %", y_title="us a line and chunk", from_zero=True,
            ),
        ],
    )  # fmt: skip


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wav", type=Path, metavar="FILE", help="listen to a wave file of 16 bits at 16 kHz")
    parser.add_argument("--microphone", type=float, metavar="SECONDS", help="listen to the microphone")
    parser.add_argument("--floor-db", type=float, default=-62.0, help="of the gate, with --wav and --microphone")


if __name__ == "__main__":
    sys.exit(main("voice", __doc__ or "", work, with_data=True, more=more))
