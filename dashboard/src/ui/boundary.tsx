// A page that cannot be drawn says so, and the rest stays: a record may have a shape that nobody here foresaw.

import { Component, type ComponentChildren } from "preact";
import { asRefusal } from "../api/client.ts";
import { Refused } from "./base.tsx";

export class Boundary extends Component<{ children: ComponentChildren }, { fault?: unknown }> {
  override componentDidCatch(fault: unknown): void {
    this.setState({ fault });
  }

  override render() {
    const { fault } = this.state;
    if (fault === undefined) return this.props.children;
    return (
      <>
        <h1 tabIndex={-1}>Not drawn</h1>
        <Refused why={asRefusal(fault)} title="This page could not be drawn" />
        <p><button type="button" class="btn" onClick={() => this.setState({ fault: undefined })}>Try again</button></p>
      </>
    );
  }
}
