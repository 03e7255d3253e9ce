// Time that has to pass, as a condition among others: a window is part of what is tested, never a guess at how long something takes.

/** True once so much time has passed since this was called. */
export const pastSince = (ms: number): (() => boolean) => {
  const end = performance.now() + ms;
  return () => performance.now() > end;
};
