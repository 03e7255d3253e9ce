// Which scene stands where in a narrated video, in whole frames. Pure; the graph of the render and the checks of the validation
// both follow it. Times are integers of frames because floating offsets moved frames at the edges of captions and fades.
// Invariant: the slots, each overlapping the next by fadeFrames, cover exactly totalFrames.

export type Slot = {
  /** Index into the scenes that were given. */
  readonly scene: number;
  readonly startFrame: number;
  /** With the crossfade into the next slot. */
  readonly frames: number;
};
export type Timeline = {
  readonly fps: number;
  readonly totalFrames: number;
  readonly fadeFrames: number;
  readonly slots: readonly Slot[];
};

/** Crossfade between scenes and fade to black at the end. */
const fadeSeconds = 0.5;
/** After the last word, so that its end is heard and the fade has something to fade. */
export const tailSeconds = 0.5;
/** A picture that stands longer is dull; when there are too few scenes they come round again. */
const dullSeconds = 15;
/** Repeating goes no further than this: every slot is an input with its own decoder. */
const maxRepeatedSlots = 24;

export const planTimeline = (speechSeconds: number, scenes: number, fps: number): Timeline => {
  const totalFrames = Math.max(1, Math.ceil((speechSeconds + tailSeconds) * fps - 1e-6));
  const fadeFrames = Math.min(Math.max(1, Math.round(fadeSeconds * fps)), totalFrames);
  const wanted = Math.max(scenes, Math.min(maxRepeatedSlots, Math.ceil(totalFrames / (dullSeconds * fps))));
  // Two crossfades must not touch, so each slot lasts at least three of them; scenes beyond that do not fit and are left out.
  const fitting = Math.max(1, Math.floor((totalFrames - fadeFrames) / (2 * fadeFrames)));
  const count = Math.max(1, Math.min(wanted, fitting));
  const starts = Array.from({ length: count }, (_, i) => Math.round((i * (totalFrames - fadeFrames)) / count));
  return {
    fps,
    totalFrames,
    fadeFrames,
    slots: starts.map((startFrame, i) => ({
      scene: i % scenes,
      startFrame,
      frames: i === count - 1 ? totalFrames - startFrame : (starts[i + 1] ?? totalFrames) - startFrame + fadeFrames,
    })),
  };
};
