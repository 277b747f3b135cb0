//! RESERVE and RELEASE (SPC-2, 7.21, 7.16): a unit for one session, until it ends.

use super::Plan;
use super::sense::Outcome;
use super::serve::Call;

/// RESERVE(6), RESERVE(10): whoever gets here holds the reservation already, or nobody does.
pub(super) fn reserve(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut state = call.unit.lock();
    state.reserved_by = Some(call.nexus.id);
    call.unit.changed(&mut state);
    Ok(Plan::End(Outcome::Good))
}

/// RELEASE(6), RELEASE(10): what one does not hold is released without effect, and without an error.
pub(super) fn release(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut state = call.unit.lock();
    if state.reserved_by == Some(call.nexus.id) {
        state.reserved_by = None;
        call.unit.changed(&mut state);
    }
    Ok(Plan::End(Outcome::Good))
}
