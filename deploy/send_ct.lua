-- Sends every CT series on to viscera once no image has come for "StableAge" seconds.
function OnStableSeries(seriesId, tags, metadata)
  if tags["Modality"] == "CT" then
    SendToModality(seriesId, "viscera")
  end
end
