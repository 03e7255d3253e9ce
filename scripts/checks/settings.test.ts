// One file of settings may serve both processes on one machine: each must know the other's names, or it would refuse to start.
import { expect, test } from "vitest";
import * as agent from "../../agent/src/config.ts";
import * as controlPlane from "../../control-plane/src/config.ts";

const namesOf = (settings: { readonly [name: string]: { readonly env: string } }): string[] =>
  Object.values(settings)
    .map((setting) => setting.env)
    .filter((name) => name.startsWith("RENDERPLANE_"));

test("the agent knows every setting of the control plane, and the reverse", () => {
  const unknownToAgent = namesOf(controlPlane.settings).filter(
    (name) => !agent.foreign.includes(name) && !namesOf(agent.settings).includes(name),
  );
  const unknownToControlPlane = namesOf(agent.settings).filter(
    (name) => !controlPlane.foreign.includes(name) && !namesOf(controlPlane.settings).includes(name),
  );
  expect({ unknownToAgent, unknownToControlPlane }).toEqual({ unknownToAgent: [], unknownToControlPlane: [] });
});
