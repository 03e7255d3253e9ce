// Dollars as the HTTP interface gives them, for people: two decimals, more below a cent. Display only; nothing is added here.
import { formatMicros, microsFromDollars } from "@renderplane/proto/kernel/units.ts";

export const dollarText = (dollars: number): string => formatMicros(microsFromDollars(dollars));
