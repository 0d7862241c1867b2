"""What a person checks after a build: lengths, repeats, unseen targets and time spans."""

from skiprec.frozen import Frozen


class Profile(Frozen):
    """Facts about the kept histories and the rows of a dataset."""

    history_lengths: dict[str, int]  # quantiles, such as "50 %": the median
    repeats: int  # interactions with an item that the user had before
    consecutive_repeats: int  # those of them that follow the same item directly
    targets: dict[str, int]  # last items of the rows of each split
    unseen_targets: dict[str, int]  # those of them that no row of training holds
    # First and last time, in ISO 8601, of the items of train rows and of the targets of the others.
    # Empty if the unit of the times is unknown, or there are none.
    spans: dict[str, tuple[str, str]]
    cut_offs: tuple[str, str] | None  # of the split by_time

    def describe(self) -> list[str]:
        """One line for each kind of fact; a warning where many targets cannot be predicted."""
        lengths = ", ".join(f"{name} {length:,}" for name, length in self.history_lengths.items())
        lines = [
            f"items of a user: {lengths}",
            f"repeats: {self.repeats:,} interactions with an item that the user had before, "
            f"{self.consecutive_repeats:,} directly after it",
        ]
        lines += [f"{split}: from {first} to {last}" for split, (first, last) in self.spans.items()]
        for split in ("validation", "test"):
            targets, unseen = self.targets[split], self.unseen_targets[split]
            if not targets:
                lines.append(f"WARNING: there are no {split} rows, so nothing is measured on them")
            if targets:
                lines.append(
                    f"{split} targets that were never trained on: {unseen:,} of {targets:,} "
                    f"({unseen / targets:.1%})"
                )
            if targets and unseen > targets / 2:
                lines.append(
                    f"WARNING: no model can predict an item that it has not seen, so most of the "
                    f"{split} rows count as misses for all of them"
                )
        return lines
