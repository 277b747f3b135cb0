//! Where a mapped device's I/O is at a moment, as `polldm stats` says it.

use serde_json::Value;

/// Where a mapped device's I/O is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Admitted, and not completed yet.
    pub in_flight: u64,
    /// Waiting in a target, for a path.
    pub held: u64,
    /// Waiting in the core, for the resume.
    pub parked: u64,
    /// Sent from a target back to the core, ever.
    pub pushed_back: u64,
    /// Completed to the host, ever.
    pub completed: u64,
    /// Of those, with an error.
    pub errors: u64,
}

impl Counts {
    /// Of what `polldm stats DEVICE --json` has written.
    pub fn parse(output: &str) -> Result<Counts, String> {
        let stats: Value =
            serde_json::from_str(output).map_err(|e| format!("stats is no JSON: {e}\n{output}"))?;
        let stats = &stats["devices"][0];
        let number = |value: &Value| {
            let missing = || format!("the statistics lack a number: {output}");
            value.as_u64().ok_or_else(missing)
        };
        let operations = stats["operations"].as_array().into_iter().flatten();
        let sum = |key: &str| {
            operations
                .clone()
                .map(|operation| number(&operation[key]))
                .sum::<Result<u64, String>>()
        };
        Ok(Counts {
            in_flight: number(&stats["in_flight"])?,
            held: number(&stats["held"])?,
            parked: number(&stats["parked"])?,
            pushed_back: number(&stats["pushed_back"])?,
            completed: sum("ios")?,
            errors: sum("errors")?,
        })
    }
}
