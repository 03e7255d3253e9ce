// What happens when the validator of a route refuses a parameter or a body: the same problem as everywhere else, with every
// field named. The wording of one field is the domain's (field-errors.ts).

import type { OpenAPIHono, RouteConfig, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { fieldErrors } from "../domain/field-errors.ts";

type Result =
  | { readonly success: true }
  | { readonly success: false; readonly error: z.ZodError; readonly target: string };

/** The default hook of every group of routes. */
export const refuseInvalid = (result: Result): void => {
  if (!result.success) throw invalid(result.error, undefined, result.target === "json" ? [] : [result.target]);
};

/** Checks a body that the route read itself. */
export const checkBody = <S extends z.ZodType>(schema: S, body: unknown): z.output<S> => {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  throw invalid(result.error, body, []);
};

/**
 * Puts a route with its body into the OpenAPI document. Such a route is created with `hide: true` and reads its body itself:
 * the library's validator would hold any body in memory and word its errors in its own way.
 */
export const describeBody = (
  app: Pick<OpenAPIHono, "openAPIRegistry">,
  { hide: _hide, ...route }: RouteConfig,
  content: { readonly [mediaType: string]: z.ZodType },
  required = true,
): void => {
  const body = {
    required,
    content: Object.fromEntries(Object.entries(content).map(([type, schema]) => [type, { schema }])),
  };
  app.openAPIRegistry.registerPath({ ...route, request: { ...route.request, body } });
};

const invalid = (error: z.ZodError, body: unknown, prefix: readonly string[]): RenderplaneError => {
  const fields = fieldErrors(error.issues, body, prefix);
  return new RenderplaneError("invalid_request", `${fields.map((field) => field.detail).join("; ")}.`, { fields });
};
