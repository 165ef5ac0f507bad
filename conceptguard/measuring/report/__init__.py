"""The report card of a policy: what was drawn, what it cost, what attacks brought back, and what nobody tested."""
