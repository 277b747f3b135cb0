//! PERSISTENT RESERVE IN (SPC-4, 6.15).

use super::super::Plan;
use super::super::sense::Outcome;
use super::super::serve::Call;
use super::transport;

fn answer(call: &Call<'_>, generation: u32, body: &[u8]) -> Plan {
    let mut data = generation.to_be_bytes().to_vec();
    data.extend_from_slice(&(body.len() as u32).to_be_bytes());
    data.extend_from_slice(body);
    Plan::answer(data, u32::from(call.cdb.u16(7)))
}

/// READ KEYS (SPC-4, 6.15.2).
pub fn read_keys(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let keys: Vec<u8> = persistent
        .registrations
        .iter()
        .flat_map(|registration| registration.key.to_be_bytes())
        .collect();
    Ok(answer(call, persistent.generation, &keys))
}

/// READ RESERVATION (SPC-4, 6.15.3).
pub fn read_reservation(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let mut body = Vec::new();
    if let Some(reservation) = &persistent.reservation {
        body.extend_from_slice(&persistent.holder_key(reservation).to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    }
    Ok(answer(call, persistent.generation, &body))
}

/// REPORT CAPABILITIES (SPC-4, 6.15.4).
pub fn report_capabilities(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    // SIP_C and ATP_C: SPEC_I_PT and ALL_TG_PT are carried out. TMV: the types that follow are all there are. Exclusive Access lets TEST
    // UNIT READY pass (ALLOW COMMANDS 001b). PTPL_C and PTPL_A: what can be kept over a loss of power, and what is.
    let can_keep = u8::from(call.unit.keeps());
    let is_kept = u8::from(call.unit.lock().persistent.is_kept);
    let data = vec![
        0,
        8,
        0x0C | can_keep,
        0x80 | 0x10 | is_kept,
        0xEA,
        0x01,
        0,
        0,
    ];
    Ok(Plan::answer(data, u32::from(call.cdb.u16(7))))
}

/// READ FULL STATUS (SPC-4, 6.15.5).
pub fn read_full_status(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let mut body = Vec::new();
    for registration in &persistent.registrations {
        let holds = persistent.is_holder(registration);
        let kind = persistent
            .reservation
            .as_ref()
            .map_or(0, |reservation| reservation.kind as u8);
        let transport = transport::encode(&registration.holder.initiator);
        body.extend_from_slice(&registration.key.to_be_bytes());
        body.extend_from_slice(&[0; 4]);
        body.push(u8::from(registration.all_ports) << 1 | u8::from(holds));
        body.push(if holds { kind } else { 0 });
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&registration.holder.port.to_be_bytes());
        body.extend_from_slice(&(transport.len() as u32).to_be_bytes());
        body.extend_from_slice(&transport);
    }
    Ok(answer(call, persistent.generation, &body))
}
