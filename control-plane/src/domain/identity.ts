// Whether two agents use one identity. Each start of an agent has an instance id of its own, and a session belongs to one instance.
// An agent that crashes again and again brings a new instance every time; an instance that comes back after another one had the
// session is two agents taking turns. A few of those within a short time are a copy, one alone may be two answers that crossed.

/** How soon two agents take turns follows from how they reconnect (up to 15 s apart), not from the heartbeat. */
export const copyWindowMs = 60_000;
/** So many returns within the window; two agents reach it with their fifth session. */
export const copyReturns = 3;

/** How often an instance came back after another one; the sessions in order of their epochs. */
export const returnsOf = (instances: readonly string[]): number => {
  const seen = new Set<string>();
  let returns = 0;
  let last: string | undefined;
  for (const instance of instances) {
    if (instance !== last && seen.has(instance)) returns++;
    seen.add(instance);
    last = instance;
  }
  return returns;
};

export const isCopied = (instances: readonly string[]): boolean => returnsOf(instances) >= copyReturns;
