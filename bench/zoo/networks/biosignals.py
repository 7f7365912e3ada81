"""Biosignals: classifiers of EEG, EMG, ECG and sleep."""

from __future__ import annotations

from typing import Any

from bench.zoo.entry import Entry, Made
from bench.zoo.inputs import channels_first


def eeg(name: str, model: str, channels: int = 8, samples: int = 256, **options: Any) -> Entry:
    """A network of braindecode for four classes, at 128 Hz."""

    def make() -> Made:
        import braindecode.models as models

        built = getattr(models, model)(n_chans=channels, n_outputs=4, n_times=samples, sfreq=128, **options)
        return built, (channels_first(channels, samples),)

    return Entry(name, "braindecode", make)


def ecg() -> Made:
    from torch_ecg.model_configs import ECG_CRNN_CONFIG
    from torch_ecg.models import ECG_CRNN

    return ECG_CRNN(["a", "b", "c"], 12, ECG_CRNN_CONFIG), (channels_first(12, 250),)


ENTRIES = (
    eeg("eegnet", "EEGNet"),
    eeg("shallow_fbcsp", "ShallowFBCSPNet"),
    eeg("deep4", "Deep4Net", samples=512),
    eeg("eegnex", "EEGNeX"),
    eeg("atcnet", "ATCNet", input_window_seconds=2),
    eeg("eeg_conformer", "EEGConformer", num_layers=2),
    eeg("eeg_tcnet", "EEGTCNet"),
    eeg("tidnet", "TIDNet"),
    eeg("eeg_inception", "EEGInceptionERP"),
    eeg("sleep_stager_chambon", "SleepStagerChambon2018", samples=1280),
    eeg("fbcnet", "FBCNet"),
    eeg("ctnet", "CTNet"),
    eeg("ifnet", "IFNet"),
    Entry("ecg_crnn", "torch-ecg", ecg),
)
