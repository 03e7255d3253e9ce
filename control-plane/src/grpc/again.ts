// An act that is asked for more often than it can be done: at most one at a time, and every request during it causes exactly one more,
// because what it read may be older than the request.

/** `act` never overlaps with itself. An error ends this run and is given to `onError`; the next request runs again. */
export const again = (act: () => Promise<void>, onError: (error: unknown) => void): (() => void) => {
  let isRunning = false;
  let isAsked = false;
  const run = async () => {
    try {
      while (isAsked) {
        isAsked = false;
        await act();
      }
    } catch (error) {
      onError(error);
    } finally {
      isRunning = false;
    }
  };
  return () => {
    isAsked = true;
    if (isRunning) return;
    isRunning = true;
    void run();
  };
};
