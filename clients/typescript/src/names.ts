import { invalid } from "./errors.js";

const maxName = 255;
const alphabet = "A-Z a-z 0-9 . _ : @ + = -";
const helper = "escapeName writes any text as a name";

/** What is wrong with a lock's name, or "". */
export function nameProblem(name: unknown): string {
  if (typeof name !== "string") return `is ${name === null ? "null" : `of type ${typeof name}`}; give a string`;
  if (name === "") return `is empty; give 1 to ${maxName} of ${alphabet}`;
  const wrong = /[^A-Za-z0-9._:@+=-]/u.exec(name)?.[0];
  if (wrong !== undefined) return `has the character ${JSON.stringify(wrong)}; only ${alphabet} are allowed, with : for hierarchy (${helper})`;
  if (name.length > maxName) return `is ${name.length} bytes long; at most ${maxName} are allowed`;
  if (name === "." || name === "..") return `is ${JSON.stringify(name)}, which URLs cannot carry; add another character (${helper})`;
  return "";
}

export function checkName(name: unknown): void {
  const problem = nameProblem(name);
  if (problem) throw invalid("name", `name ${problem}`);
}

/** Throws if a lease's secret is not valid. The text does not contain it. */
export function checkSecret(secret: unknown): void {
  if (typeof secret !== "string" || !/^[A-Za-z0-9_-]{16,128}$/.test(secret)) throw invalid("lease", "the lease secret must be 16 to 128 of A-Z a-z 0-9 _ -");
}

/** What is wrong with the name of an owner, or "". */
export function ownerProblem(owner: unknown): string {
  if (typeof owner !== "string") return `is of type ${typeof owner}; give a string`;
  const bytes = Buffer.byteLength(owner);
  if (bytes > 256) return `is ${bytes} bytes long; at most 256 are allowed`;
  if (!owner.isWellFormed()) return "has half of a surrogate pair; leave it out";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what the coordinator refuses
  const wrong = /[\u0000-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]/.exec(owner)?.[0];
  if (wrong === undefined) return "";
  return `has the character U+${wrong.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}, a control, line break or bidirectional control; leave it out`;
}

/**
 * The lock name for any text that is not empty, such as a path or a branch's name. It keeps the characters A-Z a-z 0-9 . _ : @ - and writes
 * every other byte of the text in UTF-8 as = and two upper-case hexadecimal digits: "feature/x y" becomes "feature=2Fx=20y". Different texts
 * have different names, and {@link unescapeName} returns the text of a name. Throws a `RefusedError` if the text is empty, has half of a
 * surrogate pair, or has a name of more than 255 bytes.
 */
export function escapeName(text: string): string {
  if (text === "") throw invalid("name", "there is no lock name for an empty text; give at least one character");
  if (!text.isWellFormed()) throw invalid("name", "the text has half of a surrogate pair; leave it out");
  const onlyDots = text === "." || text === ".."; // URLs cannot contain them as a path segment
  let name = "";
  for (const byte of Buffer.from(text)) {
    const c = String.fromCharCode(byte);
    name += /[A-Za-z0-9._:@-]/.test(c) && !onlyDots ? c : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  const problem = nameProblem(name);
  if (problem) throw invalid("name", `the escaped name ${problem}`);
  return name;
}

/** The text of a name that {@link escapeName} returned. Throws a `RefusedError` for any other name. */
export function unescapeName(name: string): string {
  const bytes = Buffer.from(
    name.replace(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    "latin1",
  );
  const text = bytes.toString();
  if (text === "" || escapeName(text) !== name) throw invalid("name", `name ${JSON.stringify(name)} is not as escapeName writes it`);
  return text;
}
